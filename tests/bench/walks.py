"""How far a reader goes: our functions that one piece of work runs through, and their files.

    python -m tests.bench.walks [--list NAME] [--json]

A tiny random model on the CPU is called with a camera, then asked for a turn. Of each walk the run
that met most functions counts; comprehensions are left out. `--list` names them in
the order in which they are first met.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from engine.config import MiniCpmoConfig
from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine, MiniCpmoSession
from engine.minicpmo.modes import modes
from engine.minicpmo.modes.full_duplex import FullDuplex
from engine.minicpmo.serving.scheduler import Scheduler
from engine.minicpmo.speech.worker import SpeechWorker
from tests import ROOT
from tests.engine.minicpmo.engine_rig import Talk, config, speaking
from tests.tiny_checkpoint import write_checkpoint

Met = dict[tuple[str, str], None]
"""Files and functions, in the order in which they were first met."""

LEFT_OUT = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
OURS = tuple(f"{ROOT}{os.sep}{folder}{os.sep}" for folder in ("engine", "server", "media"))

UNIT = "a unit's sound and pictures, until they are read"
TOKEN = "one token, with the request for the chunk that it ends"
SOUND = "what was asked for, until it is sound"
MESSAGE = "a message of a session and the reply's end"
PLACES: tuple[tuple[str, Any, str], ...] = (
    (UNIT, FullDuplex, "start"),
    (TOKEN, modes, "step"),
    (SOUND, SpeechWorker, "step"),
    (MESSAGE, MiniCpmoSession, "handle"),
    (MESSAGE, Scheduler, "_drain"),
)
JOINED = (MESSAGE,)
"""Walks of more than one run: what all of them met counts."""


class Walks:
    """What each run of each walk met."""

    def __init__(self) -> None:
        self._runs: list[tuple[str, Met]] = []

    def met(self, walk: str) -> Met:
        runs = [met for name, met in self._runs if name == walk]
        if walk in JOINED:
            return {met: None for run in runs for met in run}
        return max(runs, key=len)

    def of(self, walk: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, which notes what it runs through in its own thread."""

        def traced(*given: Any, **named: Any) -> Any:
            met: Met = {}

            def note(frame: FrameType, event: str, argument: object) -> None:
                code = frame.f_code
                ours = code.co_filename.startswith(OURS) and code.co_name not in LEFT_OUT
                if event == "call" and ours:
                    met[code.co_filename, f"{code.co_name}:{code.co_firstlineno}"] = None

            before = sys.getprofile()
            sys.setprofile(note)
            try:
                return function(*given, **named)
            finally:
                sys.setprofile(before)
                self._runs.append((walk, met))

        return traced


@contextmanager
def traced() -> Iterator[Walks]:
    walks = Walks()
    kept = [(owner, name, getattr(owner, name)) for _, owner, name in PLACES]
    for walk, owner, name in PLACES:
        setattr(owner, name, walks.of(walk, getattr(owner, name)))
    try:
        yield walks
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


async def call(engine: MiniCpmoEngine) -> dict[str, Met]:
    """Units with a picture until the model has spoken; then a turn that is answered aloud."""
    talk = Talk(engine, "full", 0, config())
    picture = np.full((120, 160, 3), 90, np.uint8).tobytes()
    # What happens at first alone is not on the way.
    await talk.units(1)
    with traced() as walks:
        talk.session.handle(p.ImageIn("full", 0, 160, 120, picture))
        await speaking(talk)
        await talk.units(2)
    await talk.session.close()
    short = p.Sampling(seed=7, max_output_tokens=10)
    turns = Talk(engine, "turns", 1, config(mode="turn_based", sampling=short))
    await answered(turns, 1)
    with traced() as written:
        await answered(turns, 2)
    await turns.session.close()
    return {walk: walks.met(walk) for walk in (UNIT, TOKEN, SOUND)} | {
        MESSAGE: written.met(MESSAGE)
    }


async def answered(talk: Talk, count: int) -> None:
    typed = (p.TextPart("hello"),)
    talk.session.handle(p.ItemIn(talk.name, f"item{count}", "user", typed))
    talk.session.handle(p.CreateResponse(talk.name))
    await talk.until(p.ResponseDone, count)


async def measure() -> dict[str, Met]:
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder, seed=3)
        settings = MiniCpmoConfig(device="cpu", max_context=1700, flow_steps=1)
        engine = MiniCpmoEngine(folder, 2, settings)
        await engine.start(lambda text: None)
        try:
            return await call(engine)
        finally:
            await engine.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", default="", metavar="NAME", help="functions of walks so called")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    walks = asyncio.run(measure())
    counts = {
        walk: {"functions": len(met), "files": len({file for file, _ in met})}
        for walk, met in walks.items()
    }
    if options.json:
        print(json.dumps(counts, indent=1))
    else:
        for walk, count in counts.items():
            print(f"{count['functions']:4d} / {count['files']:2d}  {walk}")
    for walk, met in walks.items():
        if options.list and options.list in walk:
            for file, function in met:
                print(f"  {Path(file).relative_to(ROOT)}:{function}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
