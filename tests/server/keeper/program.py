"""A keeper with fronts that do as they are told: `python -m tests.server.keeper.program`.

A front says on stdout, as JSON, what it found; then it reads commands from stdin, one a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from server.front.processes import KeptProcess, KeptProcesses
from server.keeper.keeper import CRASHED, Inheritance, Keeper

SLEEPS = "import sys, time; print(sys.stdin.readline(), flush=True); time.sleep(600)"
"""A child that says what it was told, so that it is known to have begun."""


def say(**told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


class Told:
    """What a front does for the test."""

    def __init__(self, found: Inheritance) -> None:
        self.kept = KeptProcesses(found)
        self.processes: dict[str, Any] = {}
        self.ways: dict[str, Any] = {}

    async def do(self, command: str, *given: str) -> None:
        match command:
            case "start":
                [name] = given
                process, self.ways[name] = await self.kept.start(
                    *(name, (sys.executable, "-c", SLEEPS), b"line\n", f"note {name}".encode()),
                    has_way=True,
                )
                self.processes[name] = process
                say(pid=process.pid)
            case "start nothing":
                try:
                    await self.kept.start("none", ("/no/such/file",), b"", b"", has_way=True)
                except OSError as error:
                    say(error=str(error))
            case "take":
                left = self.kept.left(given[0])
                assert left is not None
                self.processes[given[0]] = left.process
                has_way = left.way is not None
                say(alive=left.process is not None, note=left.note.decode(), way=has_way)
            case "end":
                process = self.processes[given[0]]
                assert isinstance(process, KeptProcess)
                process.kill()
                say(code=await process.wait())
            case "remember":
                self.kept.remember(*(given[0], given[1].encode()))
                self.kept.forget("nothing")
                self.kept.remember("a file", b"", 1)
            case "recall":
                memory = self.kept.memory(given[0])
                file = self.kept.file("a file")
                is_stdout = file is not None and os.fstat(file) == os.fstat(1)
                say(memory=None if memory is None else memory.decode(), is_stdout=is_stdout)
            case "serve":
                self.kept.serves()
                say(serves=True)
            case "exit":
                sys.stdout.flush()
                os._exit(int(given[0]))


async def front(found: Inheritance) -> None:
    told = Told(found)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    say(life=found.life, pid=os.getpid(), parent=os.getppid(), ended=found.ended)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )

    async def obey() -> None:
        while line := await reader.readline():
            await told.do(*json.loads(line))

    obeying = asyncio.create_task(obey())
    await stop.wait()
    obeying.cancel()
    say(stopped=True)


if __name__ == "__main__":
    outcome = Keeper().run()
    if isinstance(outcome, Inheritance):
        asyncio.run(front(outcome))
        outcome = 0
    assert outcome != CRASHED
    sys.exit(outcome)
