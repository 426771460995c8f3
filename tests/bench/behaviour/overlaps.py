"""Sounds over an answer: does it stop where it should, and go on where it should not?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.bench.behaviour import sounds
from tests.bench.behaviour.caller import Caller
from tests.bench.behaviour.sounds import CHATTER, RATE, VOICES, Sound, spoken

LONG = (
    "repeat after me the quick brown fox jumps over the lazy dog and then it runs along the river "
    "and over the hills and through the woods and down the valley until it finds a meadow where a "
    "hundred rabbits are having a picnic and nobody there has ever seen a fox before in all of"
)
"""Typed, this makes the built-in engine speak for long without a pause."""
LEVEL_S = 0.9
LEAD_S = 0.8
LOOK_S = 2.6
GONE_S = 0.8
"""An answer that is silent for so long has stopped."""
DUCK_DB = 6.0

INTERRUPTIONS = (
    ("wait, what time is it", r"It is \d"),
    ("what is the date today", r"It is \w+day"),
    ("who are you", "built-in|omnicall"),
    ("sorry, what can you do", "understand|commands"),
    ("stop, what time is it", r"It is \d"),
    ("what is seven times eight", r"56|fifty"),
    ("no, tell me a story", r"\w{3}"),
    ("stop", ""),
    ("wait", ""),
)
WORDS = ("right", "yeah", "okay", "uh-huh", "I see", "sure")


class OverlapKind(NamedTuple):
    """What sounds over the answer."""

    name: str
    interrupts: bool
    make: Callable[[int, str], Sound]
    echo_db: float | None = None


def _interruption(case: int, voice: str) -> Sound:
    return spoken(INTERRUPTIONS[case % len(INTERRUPTIONS)][0], voice, (155, 175, 190)[case % 3])


def _acknowledgement(case: int, voice: str) -> Sound:
    level = sounds.LEVEL_DB - (0, 3, 6)[case % 3]
    if case % 4 == 0:
        return sounds.hum(case, level)
    return spoken(WORDS[case % len(WORDS)], voice, 175, level)


def _other(case: int, voice: str) -> Sound:
    other = VOICES[(VOICES.index(voice) + 3) % len(VOICES)]
    return spoken(CHATTER[case % len(CHATTER)], other, level_db=sounds.LEVEL_DB - 15)[: 2 * RATE]


KINDS = (
    OverlapKind("interruption", True, _interruption),
    OverlapKind("acknowledgement", False, _acknowledgement),
    OverlapKind("cough", False, lambda case, _: sounds.cough(case, -22.0)),
    OverlapKind("door", False, lambda case, _: sounds.door(case, -20.0)),
    OverlapKind("keyboard", False, lambda case, _: sounds.keyboard(2.0, case, -34.0)),
    OverlapKind("music", False, lambda case, _: sounds.music(2.0, case, -42.0)),
    OverlapKind("other talker -15 dB", False, _other),
    OverlapKind("own echo -20 dB", False, lambda *_: sounds.silence(2.0), echo_db=-20.0),
    OverlapKind("own echo -30 dB", False, lambda *_: sounds.silence(2.0), echo_db=-30.0),
)
ECHO_S = 0.15


async def overlap_case(caller: Caller, kind: OverlapKind, case: int, voice: str) -> dict[str, Any]:
    """Have a long answer begin, sound over it, and see what becomes of it."""
    if kind.echo_db is not None:
        caller.mouth.echo = (ECHO_S, kind.echo_db)
    caller.ask(LONG)
    if await caller.speaking(8.0) is None:
        return {"failed": "no answer came"}
    await asyncio.sleep(LEAD_S)
    sound = kind.make(case, voice)
    asked = time.monotonic()
    begun = await caller.mouth.say(sound)
    length_s = len(sound) / RATE
    await asyncio.sleep(max(0.0, begun + length_s + LOOK_S - time.monotonic()))
    caller.mouth.echo = None
    row = _judged(caller, begun, begun + length_s + LOOK_S)
    row |= {"voice": voice, "case": case, "late_ms": round((begun - asked) * 1000)}
    if kind.interrupts:
        row["text"], row["wanted"] = INTERRUPTIONS[case % len(INTERRUPTIONS)]
        row["answer"] = await _answer(caller, begun)
    await caller.hush()
    return row


def _judged(caller: Caller, begun: float, until: float) -> dict[str, Any]:
    cleared = [
        at
        for at, event in caller.events
        if begun <= at < until
        and (
            event["type"] == "output_audio_buffer.cleared"
            or (event["type"] == "response.done" and event["response"]["status"] == "cancelled")
        )
    ]
    row: dict[str, Any] = {"stopped": bool(cleared), "ducked_ms": None, "silent_ms": None}
    before_db = caller.ear.level(begun - 0.6, begun)
    last = begun
    for came in caller.ear.loud(begun - 0.05, min(cleared, default=until) + 0.05):
        last = max(last, came)
    if cleared:
        row["silent_ms"] = round((last + 0.02 - begun) * 1000)
    at = begun + 0.04
    while at < until - 0.06:
        if caller.ear.level(at, at + 0.06) < before_db - DUCK_DB:
            row["ducked_ms"] = round((at + 0.02 - begun) * 1000)
            break
        at += 0.02
    told = [e["metrics"] for e in caller.told("metrics", begun, until) if "overlap" in e["metrics"]]
    row["decisions"] = [(one["overlap"], one["overlap_decided_ms"]) for one in told]
    row["turns"] = len(caller.told("input_audio_buffer.speech_started", begun, until))
    row["answered"] = len(caller.told("response.created", begun, until))
    return row


async def _answer(caller: Caller, since: float) -> dict[str, str]:
    """What was understood, and what was answered, after an interruption."""
    heard = await caller.event("conversation.item.input_audio_transcription.completed", 2.0, since)
    await caller.event("response.output_audio_transcript.delta", 2.0, since)
    await asyncio.sleep(0.7)
    words = "".join(
        e["delta"] for e in caller.told("response.output_audio_transcript.delta", since)
    )
    return {"heard": (heard or {}).get("transcript", ""), "said": words}
