"""Child processes for the supervisor's tests: real ones, that do what their name says.

The supervisor starts them as `python -c "from tests.server.front.child import main; main()" PID`;
the line on stdin is JSON: name, control, behaviour and a folder to leave notes in.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from engine.ipc.child_process import Child
from engine.ipc.lifeline import die_with_parent
from engine.ipc.supervision import EngineStats, FromChild, Ready


def stats(slots: int) -> EngineStats:
    """A message that tells who sent it, by its slots."""
    return EngineStats(
        slots=slots,
        slots_used=0,
        capacity=slots,
        unit_p99_ms=0,
        late_share=0,
        oldest_pending_ms=0,
        dropped_ms=0,
        units=0,
        stages_ms={},
        cpu_s=0.0,
        rss_bytes=0,
        loop_lag_ms=0,
    )


async def serve(told: dict[str, Any]) -> int:
    behaviour, generation = told["behaviour"], told["generation"]
    if behaviour == "silent":
        await asyncio.Event().wait()
    child = Child(told["control"], told["name"], told["secret"])
    child.progress(f"life {generation}")
    if behaviour == "downloads":
        child.fetching("a model", 40, 100)
    if behaviour == "fatal" or (behaviour == "fatal later" and generation > 1):
        child.fatal("the model folder is empty")
        child.close()
        return 3
    if behaviour == "exit" or (behaviour == "exit twice" and generation <= 2):
        child.close()
        return 7
    if behaviour not in ("never ready", "downloads"):
        child.send(Ready(os.getpid(), f"ipc:///life/{generation}"))
        child.send(stats(generation))
    if behaviour == "breaks":
        child.fatal("its only thread has died")
    await child.stop.wait()
    if behaviour == "stubborn":
        await asyncio.Event().wait()
    child.close()
    leave_note(told, child.grace_s)
    return 0


def leave_note(told: dict[str, Any], grace_s: float) -> None:
    """Who stopped, in order, and what it was given."""
    with open(Path(told["folder"], "stopped"), "a") as notes:
        notes.write(json.dumps([told["name"], grace_s]) + "\n")


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    told = json.loads(sys.stdin.buffer.readline())
    sys.exit(asyncio.run(serve(told)))


PARENT = """
import asyncio, json, os, sys
from engine.ipc.supervision import (FromChild)
from server.front.supervisor import Observer
from tests.server.front.child import supervisor

async def main():
    made = supervisor(sys.argv[1], {"engine-0": "good", "worker-0": "good"}, Observer())
    running = asyncio.create_task(made.run())
    for child in made.children.values():
        await child.is_ready.wait()
    print(json.dumps([child.pid for child in made.children.values()]), flush=True)
    await running

asyncio.run(main())
"""


def supervisor(
    folder: str, behaviours: dict[str, str], observer: Any, *, ready_timeout_s: float = 30.0
) -> Any:
    """A supervisor of such children, by their names."""
    from server.front.supervisor import ChildSpec, Supervisor

    control = f"ipc://{folder}/control"

    def spec(name: str, behaviour: str) -> ChildSpec:
        def payload(generation: int, secret: str) -> bytes:
            return json.dumps(
                {
                    "name": f"{name}#{generation}",
                    "secret": secret,
                    "control": control,
                    "behaviour": behaviour,
                    "generation": generation,
                    "folder": folder,
                }
            ).encode()

        role: Any = name.partition("-")[0]
        return ChildSpec(role, name, "tests.server.front.child", payload, ready_timeout_s)

    specs = [spec(name, behaviour) for name, behaviour in behaviours.items()]
    return Supervisor(specs, control, FromChild, observer)
