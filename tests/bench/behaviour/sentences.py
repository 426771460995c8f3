"""Open sentences: how many of their words are understood, and how good the answering voice is."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.bench.behaviour import sounds
from tests.bench.behaviour.caller import Caller, Event
from tests.bench.behaviour.sounds import LEVEL_DB, RATE, Sound, spoken
from tests.speech import resample

SENTENCES = (
    "the old man walked slowly across the bridge",
    "please bring two glasses of cold water to the kitchen table",
    "my sister moved to a small town near the sea last summer",
    "we missed the last train because the rain would not stop",
    "can you explain why the sky turns red in the evening",
    "he left his green umbrella under the chair by the window",
    "the children built a house of snow behind the school",
    "i would like to know how far the moon is from here",
    "she reads a book every week and forgets most of them",
    "nobody in the office remembered to water the plants",
    "turn left at the church and follow the river for a mile",
    "the doctor said that you should sleep more and worry less",
)
LISTENS: Event = {
    "type": "realtime",
    "model": "omnicall",
    "audio": {"input": {"turn_detection": {"type": "server_vad", "create_response": False}}},
}
"""A session that writes down what is said and answers nothing."""
WAIT_S = 6.0
BEHIND_S = 1.2
"""So long after a transcript another part of the sentence may follow."""
LEAD_S = 2.0
TAIL_S = 2.0
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
DONE = "conversation.item.input_audio_transcription.completed"


class SentenceKind(NamedTuple):
    """What becomes of a sentence on its way."""

    name: str
    make: Callable[[Sound, int], Sound]


def _in_noise(speech: Sound, case: int) -> Sound:
    seconds = LEAD_S + len(speech) / RATE + TAIL_S
    return sounds.mixed(speech, sounds.fan(seconds, case, LEVEL_DB - 15.0), LEAD_S)


KINDS = (
    SentenceKind("clean", lambda speech, _: speech),
    SentenceKind("noise 15 dB below", _in_noise),
    SentenceKind("telephone band", lambda speech, _: sounds.telephone(speech)),
)


async def sentence_case(
    caller: Caller, kind: SentenceKind, case: int, voice: str
) -> dict[str, Any]:
    """Say a sentence and compare what is written down."""
    text = SENTENCES[case % len(SENTENCES)]
    sound = kind.make(spoken(text, voice), case)
    begun = await caller.mouth.say(sound)
    ended = begun + len(sound) / RATE
    await asyncio.sleep(max(0.0, ended - time.monotonic()))
    newest = time.monotonic()
    count = 0
    while time.monotonic() < (newest + BEHIND_S if count else ended + WAIT_S):
        await asyncio.sleep(0.05)
        if len(caller.told(DONE, begun)) > count:
            count, newest = len(caller.told(DONE, begun)), time.monotonic()
    heard = " ".join(event.get("transcript", "") for event in caller.told(DONE, begun))
    wrong, words = errors(text, heard), len(plain_words(text))
    return {"case": case, "voice": voice, "text": text, "heard": heard, "wrong": wrong, "of": words}


def errors(said: str, heard: str) -> int:
    """Words that were missed, changed or added: the edit distance."""
    wanted, found = plain_words(said), plain_words(heard)
    row = list(range(len(found) + 1))
    for at, word in enumerate(wanted, 1):
        before, row[0] = row[0], at
        for place, other in enumerate(found, 1):
            same = before + (word != other)
            before = row[place]
            row[place] = min(row[place] + 1, row[place - 1] + 1, same)
    return row[-1]


def plain_words(text: str) -> list[str]:
    """Lower case, without marks; "56" and "fifty-six", "9:30" and "half past nine" are the same."""
    text = re.sub(r"(\d+):30", r"half past \1", text.lower())
    text = re.sub(r"\d+", lambda match: f" {_spelled(int(match[0]))} ", text)
    return re.findall(r"[a-z0-9']+", text)


def _spelled(number: int) -> str:
    """Below a hundred in letters."""
    if number < len(SMALL):
        return SMALL[number]
    tens, units = divmod(number, 10)
    return f"{TENS[tens - 2]} {SMALL[units] if units else ''}" if number < 100 else str(number)


async def voice_quality(caller: Caller) -> dict[str, float] | str:
    """DNSMOS of an answer as it is heard; a word where `speechmos` is missing."""
    try:
        from speechmos import dnsmos
    except ImportError:
        return "speechmos is missing"
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    caller.ask("tell me a story")
    await caller.speaking(10.0)
    await asyncio.sleep(12.0)
    packets = [pcm for at, _, pcm in caller.ear.packets if begun <= at]
    sound = resample(sounds.trimmed(np.concatenate(packets)), RATE, 16_000)
    found = await asyncio.to_thread(dnsmos.run, np.clip(sound, -1, 1), sr=16_000)
    await caller.hush()
    return {name: round(float(found[name]), 2) for name in ("ovrl_mos", "sig_mos", "p808_mos")}
