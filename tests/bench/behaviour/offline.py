"""`python -m tests.bench.behaviour.offline [--kinds NAME ...] [--cases N] [--show]`: the bench's
sounds through what the built-in engine decides with, on a clock that only counts samples.

No network and no load, so that thresholds can be judged by many voices: those of the bench, and
others with other words. Words come from Whisper where it is installed,
so long after they were asked for as an idle core takes; the way to the caller is a constant.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tests.bench import loss
from tests.bench.behaviour import overlaps, sounds, turns
from tests.bench.behaviour.sounds import RATE, Sound, silence, spoken
from tests.bench.behaviour.virtual_call import WAY_S, Answer, Call, Ear, Replies

LEAD_S = 0.8
LOOK_S = 2.2
ANSWER_LENGTH_S = 8.0
OTHERS = (
    *("en-gb-x-rp", "en-us+m1", "en-us+f1", "en-gb+m7", "en-us+f3", "en-029", "en-gb+f2"),
    *("en-gb-x-gbclan+m2", "en-us+m4", "en-gb+m5"),
)
"""Voices and words that the bench has not."""
OTHER_INTERRUPTIONS = (
    *("hold on, I have a question", "can you say that again", "how old are you", "please stop"),
    *("what do you mean", "that is enough", "where is that", "no, that is wrong", "be quiet"),
    *("I want something else", "is it far away", "tell me the time", "why is that", "stop it now"),
)
OTHER_WORDS = ("yes", "got it", "really", "all right", "of course", "oh", "exactly", "wow", "mm")
OTHER_COMMANDS = (
    ("what is nine plus four", "", 3),
    ("what day is it today", "", 2),
    ("count from three to nine", "", 3),
    ("what is your name", "", 2),
    ("tell me another story", "", 2),
    ("what do you see", "", 2),
    ("how are you today", "", 2),
    ("can you tell me the time", "", 2),
    ("what is twelve divided by four", "", 4),
)


class Case(NamedTuple):
    voice: str
    text: str
    sound: Sound
    pause_s: float = 0.0


def overlap_row(ear: Ear, case: Case, answer: Sound, echo_db: float | None) -> dict[str, Any]:
    """What becomes of an answer; times from the first sample of the sound, as the caller has it."""
    call = Call(ear)
    call.hear(np.concatenate([silence(0.5), spoken("what time is it", case.voice), silence(1.2)]))
    given = Answer(answer, echo_db)
    call.hear(silence(LEAD_S), given)
    begun = call.now
    call.hear(np.concatenate([case.sound, silence(LOOK_S)]), given)
    silent_s = call.cut_s
    for at, told in call.told:
        if call.cut_s is not None and at <= call.cut_s:
            silent_s = at if told.loudness == "held" else call.cut_s if told.loudness else silent_s
    waits = {told.loudness: at for at, told in call.told if told.loudness in ("held", "full")}
    waited_s = waits.get("full", 0.0) - waits["held"] if "held" in waits else 0.0
    first = next((at for at, told in call.told if told.loudness == "ducked"), None)
    return {
        "voice": case.voice,
        "text": case.text,
        "stopped": call.cut_s is not None,
        "silent_ms": None if silent_s is None else round((silent_s - begun + WAY_S) * 1000),
        "ducked_ms": None if first is None else round((first - begun + WAY_S) * 1000),
        "waited_ms": round(waited_s * 1000) if call.cut_s is None and waited_s > 0 else None,
        "steps": [
            (told.loudness, told.decision, round((at - begun) * 1000)) for at, told in call.told
        ],
    }


def turn_row(ear: Ear, case: Case) -> dict[str, Any]:
    """When a command is answered, and whether it was finished by then."""
    call = Call(ear)
    call.hear(silence(0.6))
    begun = call.now
    ended = begun + len(case.sound) / RATE
    replies = Replies(call)
    call.hear(np.concatenate([case.sound, silence(3.0)]), replies=replies)
    last = replies.heard[-1][0] if replies.heard else None
    return {
        "voice": case.voice,
        "text": case.text,
        "heard": [text for _, text in replies.heard],
        "over": any(at < ended - 0.1 for at, _ in replies.heard),
        "response_ms": None if last is None else round((last - ended) * 1000),
        "ends_ms": [round((at - ended) * 1000) for at, _ in call.said],
    }


def interruptions(which: str, count: int) -> Iterator[Case]:
    """Sentences, short questions and words that want the answer to end."""
    voices = sounds.VOICES if which == "bench" else OTHERS
    texts = [text for text, _ in overlaps.INTERRUPTIONS]
    texts = texts if which == "bench" else list(OTHER_INTERRUPTIONS)
    for case in range(count):
        voice, text = voices[case % len(voices)], texts[case % len(texts)]
        # Each text comes in each voice before a voice is as fast again.
        rate = (155, 175, 190)[(case + case // len(texts)) % 3]
        yield Case(voice, text, spoken(text, voice, rate))


def acknowledgements(which: str, count: int) -> Iterator[Case]:
    voices = sounds.VOICES if which == "bench" else OTHERS
    texts = overlaps.WORDS if which == "bench" else OTHER_WORDS
    for case in range(count):
        voice, text = voices[case % len(voices)], texts[case % len(texts)]
        level = sounds.LEVEL_DB - (0, 3, 6)[case % 3]
        seed = case if which == "bench" else case + 1_000
        if case % 4 == 0:
            yield Case(voice, "(hum)", sounds.hum(seed, level))
        else:
            yield Case(voice, text, spoken(text, voice, (150, 175, 200)[case // 2 % 3], level))


def noises(kind: overlaps.OverlapKind) -> Callable[[str, int], Iterator[Case]]:
    def make(which: str, count: int) -> Iterator[Case]:
        for case in range(count):
            voice = sounds.VOICES[case % len(sounds.VOICES)]
            seed = case if which == "bench" else case + 1_000
            yield Case(voice, f"({kind.name})", kind.make(seed, voice))

    return make


def commands(pause_s: float) -> Callable[[str, int], Iterator[Case]]:
    def make(which: str, count: int) -> Iterator[Case]:
        voices = sounds.VOICES if which == "bench" else OTHERS
        texts = turns.COMMANDS if which == "bench" else OTHER_COMMANDS
        for case in range(count):
            voice = voices[case % len(voices)]
            text, _, at = texts[(case + case // len(voices)) % len(texts)]
            pause = {"pause_after": at, "pause_s": pause_s} if pause_s else {}
            rate = (150, 165, 180)[case % 3]
            yield Case(voice, text, spoken(text, voice, rate, **pause), pause_s)  # type: ignore[arg-type]

    return make


def overlap_kind(
    ear: Ear,
    make: Callable[[str, int], Iterator[Case]],
    echo_db: float | None,
    which: str,
    count: int,
) -> tuple[str, list[dict[str, Any]]]:
    """A line for one kind and set of voices, and its rows."""
    pcm = np.frombuffer(loss.speech(ANSWER_LENGTH_S), np.int16)
    answer: Sound = (pcm / 32_768).astype(np.float32)
    rows = [overlap_row(ear, case, answer, echo_db) for case in make(which, count)]
    silent = [row["silent_ms"] for row in rows if row["stopped"]]
    ducked = [row["ducked_ms"] for row in rows if row["ducked_ms"] is not None]
    waited = [row["waited_ms"] for row in rows if row["waited_ms"] is not None]
    stopped = f"stopped {len(silent)} of {len(rows)}"
    times = f"silent {spread(silent)}; ducked {spread(ducked)}; waited {spread(waited)}"
    return f"{stopped}; {times}", rows


def turn_kind(
    ear: Ear, make: Callable[[str, int], Iterator[Case]], which: str, count: int
) -> tuple[str, list[dict[str, Any]]]:
    rows = [turn_row(ear, case) for case in make(which, count)]
    over = sum(row["over"] for row in rows)
    waits = [row["response_ms"] for row in rows if row["response_ms"] and not row["over"]]
    return f"spoken over {over} of {len(rows)}; response {spread(waits)}", rows


def spread(values: list[int]) -> str:
    if not values:
        return "-"
    return "{:.0f} / {:.0f} ms".format(*np.percentile(values, (50, 95)))


OVER = {kind.name: (noises(kind), kind.echo_db) for kind in overlaps.KINDS} | {
    "interruption": (interruptions, None),
    "acknowledgement": (acknowledgements, None),
}
TURNS = {f"pause of {pause_s:g} s": commands(pause_s) for pause_s in (0.0, 0.3, 0.5, 0.8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=[*OVER, *TURNS], choices=[*OVER, *TURNS])
    parser.add_argument("--cases", type=int, default=25, help="of each kind and set of voices")
    parser.add_argument("--show", action="store_true", help="each case")
    options = parser.parse_args()
    ear = Ear()
    for name in options.kinds:
        for which in ("bench", "others"):
            if name in OVER:
                line, rows = overlap_kind(ear, *OVER[name], which, options.cases)
            else:
                line, rows = turn_kind(ear, TURNS[name], which, options.cases)
            print(f"{name}, {which}: {line}", flush=True)
            for row in rows if options.show else ():
                print("   ", row)


if __name__ == "__main__":
    main()
