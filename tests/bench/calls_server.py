"""The server of the benchmark of calls: run.py, with an engine whose decisions are scripted.

`python -m tests.bench.calls_server OPTIONS` takes run.py's options. A random model has nothing to
say, so a script decides when it speaks; everything else is what a user runs. The engine writes a
line of JSON for each unit and for each turn that it begins to `OMNI_BENCH_LOG`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from server.config import Config
from server.front import launch
from server.front.supervisor import ChildSpec
from tests.bench.standstills import FOLDER

LOG = "OMNI_BENCH_LOG"
SPEAKING = "OMNI_BENCH_SPEAKING"
"""The share of the seconds that are spoken, 0 to 1."""


def main() -> None:
    """Entry of an engine process."""
    from engine import process
    from engine.minicpmo.modes.unit_speech import UnitSpeech
    from engine.minicpmo.serving.scheduler import Scheduler
    from engine.minicpmo.session.session import Session
    from tests.bench.engine_load import Script

    log = open(os.environ[LOG], "a", buffering=1, encoding="ascii")  # noqa: SIM115 - for life
    usual, say, done = Scheduler.__init__, UnitSpeech.speak, Session.unit_done

    def begin(self: Scheduler, runner: Any, *given: Any, **more: Any) -> None:
        usual(self, runner, *given, **more)
        slots = runner.llm.kv.num_slots
        script = Script(runner.model.tokens, slots, float(os.environ[SPEAKING]), seed=1)
        script.talks = runner.duplex.sessions
        runner.duplex.replay.force = script.choose

    def said(self: UnitSpeech, entry: Any, result: Any, due: float, **more: Any) -> None:
        if result.is_turn_start:
            log.write(json.dumps(["turn", entry.session.id, due]) + "\n")
        say(self, entry, result, due, **more)

    def unit(self: Session, *, speaks: bool, stages_ms: dict[str, float], kv_tokens: int) -> None:
        dropped_ms = self.audio_input.dropped_ms
        row = ["unit", time.monotonic(), speaks, stages_ms, kv_tokens, dropped_ms, self.id]
        log.write(json.dumps(row) + "\n")
        done(self, speaks=speaks, stages_ms=stages_ms, kv_tokens=kv_tokens)

    Scheduler.__init__ = begin  # type: ignore[method-assign]
    UnitSpeech.speak = said  # type: ignore[method-assign]
    Session.unit_done = unit  # type: ignore[method-assign]
    process.main()


def specs(config: Config, folder: Path) -> list[ChildSpec]:
    """The usual children, with engines that follow the script."""
    modules = {"engine": __spec__.name}
    if FOLDER in os.environ:
        modules["worker"] = "tests.bench.calls_worker"
    return [
        msgspec.structs.replace(spec, module=modules.get(spec.role, spec.module))
        for spec in usual_specs(config, folder)
    ]


usual_specs = launch.specs

if __name__ == "__main__":
    import run

    launch.specs = specs
    sys.exit(run.main())
