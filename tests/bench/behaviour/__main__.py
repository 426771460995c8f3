"""`python -m tests.bench.behaviour [--json] [--engine builtin] [--url URL] [--cases N]
[--callers N] [--speech both]`.

Starts a server of its own unless given one. Definitions stand in `docs/behaviour.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import numpy as np

from tests.bench.behaviour import overlaps, sentences, sounds, transport, turns
from tests.bench.behaviour.caller import Caller
from tests.bench.behaviour.page import page
from tests.serving import Serving

Call = Callable[[str, str, range], AsyncIterator[dict[str, Any]]]
"""From the server, a voice and its cases: a row for each."""
Summary = Callable[[list[dict[str, Any]]], dict[str, Any]]
COLUMNS = {"base": "basic", "[voice]": "auto"}
SESSION = {"type": "realtime", "model": "omnicall"}


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def percentile(values: list[float], share: float) -> float | None:
    return round(float(np.percentile(values, share))) if values else None


def _overlap_summary(kind: overlaps.OverlapKind, rows: list[dict[str, Any]]) -> dict[str, Any]:
    judged = [row for row in rows if "failed" not in row]
    stops = [row for row in judged if row["stopped"]]
    found: dict[str, Any] = {"cases": len(judged), "stopped": len(stops)}
    if not kind.interrupts:
        found["answered"] = sum(bool(row["answered"]) for row in judged)
        return found
    silent = [row["silent_ms"] for row in stops]
    ducked = [row["ducked_ms"] for row in judged if row["ducked_ms"] is not None]
    asked = [row for row in judged if row["wanted"]]
    found["silent_ms"] = {"p50": percentile(silent, 50), "p95": percentile(silent, 95)}
    found["ducked_ms"] = {"p50": percentile(ducked, 50), "p95": percentile(ducked, 95)}
    found["questions"] = len(asked)
    found["right"] = sum(bool(re.search(row["wanted"], row["answer"]["said"])) for row in asked)
    return found


def _turn_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    waits = [
        row["response_ms"] for row in rows if row["response_ms"] is not None and not row["over"]
    ]
    return {
        "cases": len(rows),
        "answered": sum(row["answered"] for row in rows),
        "right": sum(row["right"] for row in rows),
        "spoken_over": sum(row["over"] for row in rows),
        "response_ms": {"p50": percentile(waits, 50), "p95": percentile(waits, 95)},
    }


class Callers:
    """So many calls at once; each (kind, voice) is one call with its cases one after the other."""

    def __init__(self, url: str, most: int, cases: int) -> None:
        self.url = url
        self._room = asyncio.Semaphore(most)
        self._cases = cases

    async def rows(self, name: str, call: Call) -> list[dict[str, Any]]:
        """All rows of a kind, in the order of its cases."""
        voices = range(min(self._cases, len(sounds.VOICES)))
        found: list[dict[str, Any]] = []

        async def one(number: int) -> None:
            async with self._room:
                cases = range(number, self._cases, len(sounds.VOICES))
                async for row in call(self.url, sounds.VOICES[number], cases):
                    progress(f"{name}: {row}")
                    found.append(row)

        async with asyncio.TaskGroup() as group:
            for number in voices:
                group.create_task(one(number))
        return sorted(found, key=lambda row: row.get("case", 0))

    async def minute(self, make: Callable[[float, int], sounds.Sound], seconds: float) -> int:
        async with self._room, Caller(self.url, SESSION) as caller:
            return await turns.minute(caller, make, seconds)

    async def drift(self, seconds: float) -> float | None:
        async with self._room, Caller(self.url, SESSION) as caller:
            return await transport.drift(caller, seconds)


def _overlap_call(kind: overlaps.OverlapKind) -> Call:
    async def call(url: str, voice: str, cases: range) -> AsyncIterator[dict[str, Any]]:
        async with Caller(url, SESSION) as caller:
            # Who is heard for the first time has no level that others are weaker than.
            await caller.mouth.say(sounds.spoken("what time is it", voice))
            await asyncio.sleep(2.5)
            await caller.hush()
            for case in cases:
                yield await overlaps.overlap_case(caller, kind, case, voice)

    return call


def _turn_call(kind: turns.TurnKind) -> Call:
    async def call(url: str, voice: str, cases: range) -> AsyncIterator[dict[str, Any]]:
        async with Caller(url, SESSION) as caller:
            await asyncio.sleep(0.5)
            for case in cases:
                yield await turns.turn_case(caller, kind, case, voice)

    return call


def _sentence_call(kind: sentences.SentenceKind) -> Call:
    async def call(url: str, voice: str, cases: range) -> AsyncIterator[dict[str, Any]]:
        async with Caller(url, sentences.LISTENS) as caller:
            await asyncio.sleep(0.5)
            for case in cases:
                yield await sentences.sentence_case(caller, kind, case, voice)

    return call


def _sentence_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    of = sum(row["of"] for row in rows)
    wer = round(sum(row["wrong"] for row in rows) / of, 3)
    return {"cases": len(rows), "words": of, "wer": wer}


class Kind(NamedTuple):
    """What is measured with one kind of sound."""

    part: str
    name: str
    call: Call
    summary: Summary

    @property
    def full_name(self) -> str:
        return f"sentences, {self.name}" if self.part == "sentences" else self.name


KINDS = (
    *(
        Kind("overlaps", kind.name, _overlap_call(kind), functools.partial(_overlap_summary, kind))
        for kind in overlaps.KINDS
    ),
    *(Kind("turns", kind.name, _turn_call(kind), _turn_summary) for kind in turns.KINDS),
    *(
        Kind("sentences", kind.name, _sentence_call(kind), _sentence_summary)
        for kind in sentences.KINDS
    ),
)


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every kind that is asked for, several calls at once."""
    callers = Callers(url, options.callers, options.cases)
    kinds = [kind for kind in KINDS if not options.kinds or kind.full_name in options.kinds]
    # In the order in which they are told, whichever is done first.
    result: dict[str, Any] = {part: {} for part in ("overlaps", "turns", "sentences")}
    for kind in kinds:
        result[kind.part][kind.name] = {}
    if options.quality:
        async with Caller(url, SESSION) as caller:
            result["voice"] = await sentences.voice_quality(caller)

    async def one(kind: Kind) -> None:
        rows = await callers.rows(kind.full_name, kind.call)
        result[kind.part][kind.name] = kind.summary(rows) | {"rows": rows}

    async def minute(name: str, make: Callable[[float, int], sounds.Sound]) -> None:
        count = result["false_turns"][name] = await callers.minute(make, options.quiet_s)
        progress(f"false turns in {options.quiet_s:g} s of {name}: {count}")

    async def drift() -> None:
        ahead = await callers.drift(options.drift_s)
        result["clock"] = {f"after {options.drift_s:g} s": ahead}
        progress(f"the stream to the caller is ahead of real time by {ahead} ms")

    async with asyncio.TaskGroup() as group:
        if options.drift_s:
            group.create_task(drift())
        if options.quiet_s:
            result["false_turns"] = dict.fromkeys((name for name, _ in turns.QUIET_KINDS), 0)
            for name, make in turns.QUIET_KINDS:
                group.create_task(minute(name, make))
        for kind in kinds:
            group.create_task(one(kind))
    return result


NAMES = [kind.full_name for kind in KINDS]


def measured(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures by the engine's speech parts: one column, or both."""
    if options.url is not None:
        return {"": asyncio.run(measure(options.url, options))}
    found: dict[str, dict[str, Any]] = {}
    parts = COLUMNS if options.speech == "both" else {options.speech: options.speech}
    for title, speech in parts.items():
        environment = {"OMNICALL_BUILTIN_SPEECH": speech}
        with Serving("--engine", options.engine, environment=environment) as serving:
            found[title] = asyncio.run(measure(serving.url, options))
    if options.loss:
        # Ours alone, whatever speaks and listens.
        next(iter(found.values()))["loss"] = asyncio.run(transport.loss_ladder())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server that is there; else one is started")
    parser.add_argument("--engine", default="builtin")
    parser.add_argument("--cases", type=int, default=25, help="of each kind")
    parser.add_argument("--kinds", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quiet-s", type=float, default=60.0, help="of each kind without speech")
    parser.add_argument(
        "--drift-s", type=float, default=600.0, help="of a call whose clock is watched; 0: none"
    )
    parser.add_argument("--loss", action="store_true", help="PLCMOS of lost packets (speechmos)")
    parser.add_argument("--quality", action="store_true", help="of the voice, with speechmos")
    parser.add_argument(
        "--speech",
        default="auto",
        choices=("auto", "basic", "both"),
        help="basic: without omnicall[voice]; both: one after the other, with a column each",
    )
    parser.add_argument("--callers", type=int, default=5, help="calls at once")
    parser.add_argument("--json", action="store_true", help="figures instead of a page")
    options = parser.parse_args()
    unknown = set(options.kinds or ()) - set(NAMES)
    if unknown:
        parser.error(f"--kinds: {', '.join(sorted(unknown))}: no such kind")
    found = measured(options)
    if options.json:
        print(json.dumps(found if len(found) > 1 else next(iter(found.values())), indent=1))
    else:
        print(page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
