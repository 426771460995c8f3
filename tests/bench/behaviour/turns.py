"""Turns: is what was said answered, rightly and soon, and nothing else?"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.bench.behaviour import sounds
from tests.bench.behaviour.caller import Caller
from tests.bench.behaviour.sounds import LEVEL_DB, RATE, Sound, spoken

COMMANDS = (
    ("what time is it", r"It is \d", 2),
    ("what is the date today", r"It is \w+day", 3),
    ("what is seven times eight", r"56|fifty", 3),
    ("who are you", r"built-in|omnicall", 1),
    ("tell me a story", r"\w{3}", 2),
    ("what can you do", r"understand|commands", 2),
    ("count to five", r"[Oo]ne|1", 1),
)
"""What is said, what the answer holds, and the word before which a speaker may pause."""
WAIT_S = 4.0
ANSWER_S = 3.0
"""By then an answer has said what was asked for, at the latest."""
LEAD_S = 3.0
"""So long a noise is there before anybody speaks in it."""
TAIL_S = 2.5


class TurnKind(NamedTuple):
    """How commands are said."""

    name: str
    make: Callable[[int, str, str, int], Sound]
    """From the case, the voice, the text and where it may pause."""
    pause_s: float = 0.0
    lead_s: float = 0.0
    tail_s: float = 0.0


def _plain(case: int, voice: str, text: str, _: int) -> Sound:
    return spoken(text, voice, (150, 165, 180)[case % 3])


def _paused(seconds: float) -> TurnKind:
    def make(case: int, voice: str, text: str, at: int) -> Sound:
        return spoken(text, voice, (150, 165, 180)[case % 3], pause_after=at, pause_s=seconds)

    return TurnKind(f"pause of {seconds:g} s within", make, seconds)


def _noisy(name: str, noise: Callable[[float, int, float], Sound], below_db: float) -> TurnKind:
    def make(case: int, voice: str, text: str, at: int) -> Sound:
        speech = _plain(case, voice, text, at)
        seconds = LEAD_S + len(speech) / RATE + TAIL_S
        around = noise(seconds, case, LEVEL_DB - below_db)
        return sounds.mixed(speech, around, LEAD_S)

    return TurnKind(name, make, lead_s=LEAD_S, tail_s=TAIL_S)


KINDS = (
    TurnKind("clear", _plain),
    _paused(0.3),
    _paused(0.5),
    _paused(0.8),
    _noisy("babble 20 dB below", sounds.babble, 20.0),
    _noisy("babble 10 dB below", sounds.babble, 10.0),
    _noisy("fan 15 dB below", sounds.fan, 15.0),
    _noisy("fan 5 dB below", sounds.fan, 5.0),
    TurnKind("quiet (-40 dBFS)", lambda c, v, t, _: spoken(t, v, level_db=-40.0)),
    TurnKind("clipped", lambda c, v, t, _: sounds.clipped(spoken(t, v))),
    TurnKind("telephone band", lambda c, v, t, _: sounds.telephone(spoken(t, v))),
)


async def turn_case(caller: Caller, kind: TurnKind, case: int, voice: str) -> dict[str, Any]:
    """Say a command and see what is answered, and when."""
    text, wanted, at = COMMANDS[case % len(COMMANDS)]
    sound = kind.make(case, voice, text, at)
    begun = await caller.mouth.say(sound)
    ended = begun + len(sound) / RATE - kind.tail_s
    await asyncio.sleep(max(0.0, ended - time.monotonic()))
    since = begun + kind.lead_s
    first = None
    while time.monotonic() < ended + WAIT_S:
        loud = caller.ear.loud(since, time.monotonic())
        if loud and caller.told("response.created", begun):
            first = loud[0]
            if first >= ended or time.monotonic() > ended + 1.5:
                break
        await asyncio.sleep(0.02)
    words = "response.output_audio_transcript.delta"
    heard_until = time.monotonic() + ANSWER_S
    said = ""
    while not re.search(wanted, said) and time.monotonic() < heard_until:
        await asyncio.sleep(0.05)
        said = "".join(e["delta"] for e in caller.told(words, begun))
    done = "conversation.item.input_audio_transcription.completed"
    heard = " | ".join(e.get("transcript", "") for e in caller.told(done, begun))
    row = {
        "case": case,
        "voice": voice,
        "text": text,
        "heard": heard,
        "said": said[:80],
        "answered": first is not None,
        "right": bool(re.search(wanted, said)),
        "over": first is not None and first < ended - 0.1,
        "response_ms": None if first is None else round((first - ended) * 1000),
    }
    await caller.hush()
    await asyncio.sleep(0.3)
    return row


QUIET_KINDS: tuple[tuple[str, Callable[[float, int], Sound]], ...] = (
    ("silence", lambda seconds, seed: sounds.room(seconds, seed)),
    ("fan", lambda seconds, seed: sounds.fan(seconds, seed, -38.0)),
    ("babble", lambda seconds, seed: sounds.babble(seconds, seed, -44.0)),
)


async def minute(caller: Caller, make: Callable[[float, int], Sound], seconds: float) -> int:
    """Answers and turns in a minute in which the caller says nothing, after one greeting."""
    await caller.mouth.say(spoken("what time is it", "en-us"))
    await asyncio.sleep(3.5)
    await caller.hush()
    begun = await caller.mouth.say(np.asarray(make(seconds, 3), np.float32))
    await asyncio.sleep(seconds + 0.5)
    return len(caller.told("response.created", begun))
