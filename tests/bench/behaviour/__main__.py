"""`python -m tests.bench.behaviour [--json] [--engine builtin] [--url URL] [--cases N]`.

Starts a server of its own unless given one. Definitions stand in `docs/behaviour.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
from typing import Any

import numpy as np

from tests.bench.behaviour import overlaps, sentences, sounds, turns
from tests.bench.behaviour.caller import Caller
from tests.bench.behaviour.page import page
from tests.serving import Serving

SESSION = {"type": "realtime", "model": "omnicall"}
NAMES = [
    *(kind.name for kind in overlaps.KINDS),
    *(kind.name for kind in turns.KINDS),
    *(f"sentences, {kind.name}" for kind in sentences.KINDS),
]


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


async def _overlaps(url: str, names: set[str], cases: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in overlaps.KINDS:
        if kind.name not in names:
            continue
        rows: list[dict[str, Any]] = []
        for number in range(min(cases, len(sounds.VOICES))):
            voice = sounds.VOICES[number]
            async with Caller(url, SESSION) as caller:
                # Who is heard for the first time has no level that others are weaker than.
                await caller.mouth.say(sounds.spoken("what time is it", voice))
                await asyncio.sleep(2.5)
                await caller.hush()
                for case in range(number, cases, len(sounds.VOICES)):
                    row = await overlaps.overlap_case(caller, kind, case, voice)
                    progress(f"{kind.name}: {row}")
                    rows.append(row)
        found[kind.name] = _overlap_summary(kind, rows) | {"rows": rows}
    return found


async def _turns(url: str, names: set[str], cases: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in turns.KINDS:
        if kind.name not in names:
            continue
        rows: list[dict[str, Any]] = []
        for number in range(min(cases, len(sounds.VOICES))):
            async with Caller(url, SESSION) as caller:
                await asyncio.sleep(0.5)
                for case in range(number, cases, len(sounds.VOICES)):
                    row = await turns.turn_case(caller, kind, case, sounds.VOICES[number])
                    progress(f"{kind.name}: {row}")
                    rows.append(row)
        found[kind.name] = _turn_summary(rows) | {"rows": rows}
    return found


async def _sentences(url: str, names: set[str], cases: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in sentences.KINDS:
        if f"sentences, {kind.name}" not in names:
            continue
        rows: list[dict[str, Any]] = []
        for number in range(min(cases, len(sounds.VOICES))):
            async with Caller(url, sentences.LISTENS) as caller:
                await asyncio.sleep(0.5)
                for case in range(number, cases, len(sounds.VOICES)):
                    voice = sounds.VOICES[number]
                    row = await sentences.sentence_case(caller, kind, case, voice)
                    progress(f"{kind.name}: {row}")
                    rows.append(row)
        of = sum(row["of"] for row in rows)
        wer = round(sum(row["wrong"] for row in rows) / of, 3)
        found[kind.name] = {"cases": len(rows), "words": of, "wer": wer, "rows": rows}
    return found


async def _minutes(url: str, seconds: float) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, make in turns.QUIET_KINDS:
        async with Caller(url, SESSION) as caller:
            found[name] = await turns.minute(caller, make, seconds)
            progress(f"false turns in {seconds:g} s of {name}: {found[name]}")
    return found


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    names = set(options.kinds or NAMES)
    result: dict[str, Any] = {
        "overlaps": await _overlaps(url, names, options.cases),
        "turns": await _turns(url, names, options.cases),
        "sentences": await _sentences(url, names, options.cases),
    }
    if options.quality:
        async with Caller(url, SESSION) as caller:
            result["voice"] = await sentences.voice_quality(caller)
    if options.quiet_s:
        result["false_turns"] = await _minutes(url, options.quiet_s)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server that is there; else one is started")
    parser.add_argument("--engine", default="builtin")
    parser.add_argument("--cases", type=int, default=25, help="of each kind")
    parser.add_argument("--kinds", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quiet-s", type=float, default=60.0, help="of each kind without speech")
    parser.add_argument("--quality", action="store_true", help="of the voice, with speechmos")
    parser.add_argument(
        "--speech", default="auto", help="basic: without omnicall[voice], where it is installed"
    )
    parser.add_argument("--json", action="store_true", help="figures instead of a page")
    options = parser.parse_args()
    unknown = set(options.kinds or ()) - set(NAMES)
    if unknown:
        parser.error(f"--kinds: {', '.join(sorted(unknown))}: no such kind")
    with contextlib.ExitStack() as stack:
        url = options.url
        speech = {"OMNICALL_BUILTIN_SPEECH": options.speech}
        if url is None:
            url = stack.enter_context(Serving("--engine", options.engine, environment=speech)).url
        result = asyncio.run(measure(url, options))
    print(json.dumps(result, indent=1) if options.json else page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
