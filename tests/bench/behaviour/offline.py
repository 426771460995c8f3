"""`python -m tests.bench.behaviour.offline [--kinds NAME ...] [--cases N] [--show]`: the bench's
sounds through what the built-in engine decides with, on a clock that only counts samples.

No network and no load, so that thresholds can be judged by many voices: those of the bench, and
others with other words, by which nothing was chosen. Words come from Whisper where it is installed,
so long after they were asked for as an idle core takes; the way to the caller and back is a constant.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from engine.builtin.interfaces import Transcript
from engine.builtin.recogniser_link import Begin
from engine.builtin.session import MIN_ANSWERED_MS
from engine.builtin.speech_input import Said, SpeechInput
from engine.builtin.speech_models import find_ears
from engine.builtin.whisper_recogniser import LEAST_BYTES
from engine.builtin.whisper_worker import WhisperEar
from engine.config import BuiltinConfig
from engine.ipc.protocol import INPUT_HZ, FromEngine, OverlapTold, SessionConfig, TurnDetection
from tests.bench import loss
from tests.bench.behaviour import overlaps, sounds, turns
from tests.bench.behaviour.sounds import RATE, Sound, silence, spoken
from tests.speech import resample

FRAME_S = 0.02
WORDS_S = 0.2
"""From asking a recogniser to its words."""
VOICE_S = 0.06
"""From the words to the first sound of an answer."""
WAY_S = 0.08
"""From the caller to us and back, packets and jitter included."""
PATIENCE = 3.0
LEAD_S = 0.8
LOOK_S = 2.2
ANSWER_LENGTH_S = 8.0
ANSWER_S = 4.0
OTHERS = (
    *("en-gb-x-rp", "en-us+m1", "en-us+f1", "en-gb+m7", "en-us+f3", "en-029", "en-gb+f2"),
    *("en-gb-x-gbclan+m2", "en-us+m4", "en-gb+m5"),
)
"""Voices that nothing was tuned by."""
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


class Ear:
    """Whisper, asked at once; None where it is not installed."""

    def __init__(self) -> None:
        found = find_ears(BuiltinConfig())
        self._ear = WhisperEar(found) if found else None

    def words(self, pcm: bytes) -> Transcript:
        if self._ear is None:
            return Transcript("")
        self._ear.begin(Begin(1, "", True, ""))
        self._ear.feed(pcm)
        result = self._ear.finish(1)
        return Transcript(result.text, doubt=result.doubt)


class TimedWords:
    """An utterance whose words come so much later on the call's clock. Implements `Utterance`."""

    def __init__(self, call: Call, on_partial: Callable[[str], None]) -> None:
        self._call = call
        self._on_partial = on_partial
        self._pcm = bytearray()
        self._is_paused = self._is_over = False
        self.is_owed = False
        self.due_s: float | None = None
        self.found = Transcript("")

    def feed(self, pcm: bytes) -> None:
        self._pcm += pcm

    def pause(self) -> None:
        self._is_paused = True
        self._on_partial("")
        self._ask()

    def resume(self) -> None:
        self._is_paused = self.is_owed = False
        self.due_s = None
        self._on_partial("")

    async def finish(self) -> Transcript:
        return self.found

    def end(self) -> float:
        """There is no more of it; when its words are there."""
        if not self._is_over and (not self._is_paused or self.due_s is None):
            self._ask()
        self._is_over = True
        return max(self._call.now, self.due_s or 0.0)

    def abandon(self) -> None:
        self.is_owed = False
        self.due_s = None

    def tick(self) -> None:
        if self.is_owed and self.due_s is not None and self.due_s <= self._call.now:
            self.is_owed = False
            self._on_partial(self.found.text)

    def _ask(self) -> None:
        if len(self._pcm) >= LEAST_BYTES:
            self.found = self._call.ear.words(bytes(self._pcm))
            self.due_s, self.is_owed = self._call.now + WORDS_S, True


class Answer:
    """A long answer at the caller's loudspeaker, with what was decided of it."""

    def __init__(self, sound: Sound, echo_db: float | None) -> None:
        self._sound = sound
        self._at = 0
        self._gain = 10 ** (echo_db / 20) if echo_db is not None else 0.0
        late = round((overlaps.ECHO_S + WAY_S) / FRAME_S)
        self._heard = [np.zeros(sounds.FRAME, np.float32)] * late
        self.loudness = "full"
        self.is_cut = False

    def packet(self) -> Sound:
        """What is played in the next 20 ms."""
        out = np.zeros(sounds.FRAME, np.float32)
        if not self.is_cut and self.loudness != "held":
            part = self._sound[self._at : self._at + sounds.FRAME]
            self._at += sounds.FRAME
            out[: len(part)] = part * (0.25 if self.loudness == "ducked" else 1.0)
        self._heard.append(out)
        return out

    def echo(self) -> Sound:
        return self._heard.pop(0) * self._gain


class Call:
    """Owns a call's clock, its speech input and what came of it."""

    def __init__(self, ear: Ear) -> None:
        self.ear = ear
        self.now = 0.0
        self.said: list[tuple[float, Said]] = []
        self.cut_s: float | None = None
        self.told: list[tuple[float, OverlapTold]] = []
        self._words: list[TimedWords] = []
        self._pts = 0
        self._rng = np.random.default_rng(7)
        config = SessionConfig(mode="full_duplex", turn_detection=TurnDetection(patience=PATIENCE))
        self.input = SpeechInput("s", config, self._keep, self, self._cut)

    def listen(self, on_partial: Callable[[str], None], language: str = "") -> TimedWords:
        del language
        self._words = [*self._words[-2:], TimedWords(self, on_partial)]
        return self._words[-1]

    def hear(
        self, sound: Sound, answer: Answer | None = None, replies: Replies | None = None
    ) -> None:
        """Take sound, a frame at a time, over an answer if there is one, or answering it."""
        noise = (self._rng.standard_normal(len(sound)) * 10**-3.6).astype(np.float32)
        heard = sound + noise
        for at in range(0, len(heard) - sounds.FRAME + 1, sounds.FRAME):
            part, played = heard[at : at + sounds.FRAME], b""
            if answer is not None:
                played = pcm16(answer.packet())
                part = part + answer.echo()
            over = answer is not None and self.cut_s is None
            over = over or (replies is not None and replies.is_over)
            self._take(pcm16(resample(part, RATE, INPUT_HZ)), over, played)
            if answer is not None:
                answer.is_cut = self.cut_s is not None
                answer.loudness = self.loudness
            if replies is not None:
                replies.tick()

    @property
    def loudness(self) -> str:
        """Of the answer, as it was told last."""
        return next((told.loudness for _, told in reversed(self.told) if told.loudness), "full")

    def _take(self, pcm: bytes, over: bool, played: bytes) -> None:
        self.now = self._pts / INPUT_HZ + FRAME_S
        for words in list(self._words):
            words.tick()
        for news in self.input.push(self._pts, pcm, over=over, played=played):
            if isinstance(news, Said):
                self.said.append((self.now, news))
            else:
                self._cut()
        self._pts += len(pcm) // 2

    def _keep(self, message: FromEngine) -> None:
        if isinstance(message, OverlapTold):
            self.told.append((self.now, message))

    def _cut(self) -> None:
        if self.cut_s is None:
            self.cut_s = self.now


def pcm16(sound: Sound) -> bytes:
    return (np.clip(sound, -1, 1) * 32_767).astype(np.int16).tobytes()


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
    first = next((at for at, told in call.told if told.loudness == "ducked"), None)
    return {
        "voice": case.voice,
        "text": case.text,
        "stopped": call.cut_s is not None,
        "silent_ms": None if silent_s is None else round((silent_s - begun + WAY_S) * 1000),
        "ducked_ms": None if first is None else round((first - begun + WAY_S) * 1000),
        "steps": [
            (told.loudness, told.decision, round((at - begun) * 1000)) for at, told in call.told
        ],
    }


class Replies:
    """Answers what is said, as the session does: not while the caller goes on, and not for long."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._taken = 0
        self._until_s = self._sounds_s = -1.0
        self.heard: list[tuple[float, str]] = []
        """When an answer was first heard, and what it answers."""
        self._text = ""

    @property
    def is_over(self) -> bool:
        return self._call.now < self._until_s

    def tick(self) -> None:
        call = self._call
        if call.cut_s is not None:
            self._until_s = self._sounds_s = -1.0
            call.cut_s = None
        if 0 <= self._sounds_s <= call.now and call.loudness != "held":
            self.heard.append((call.now + WAY_S, self._text))
            self._sounds_s = -1.0
        if self._taken < len(call.said):
            said = call.said[self._taken][1]
            words = said.words
            if not isinstance(words, TimedWords):
                self._taken += 1
            elif words.end() <= call.now:
                self._taken += 1
                self._begin(said, words.found)

    def _begin(self, said: Said, found: Transcript) -> None:
        is_noise = said.voiced_ms < MIN_ANSWERED_MS or found.doubt == "no_speech"
        if (found.text or not is_noise) and not self._call.input.is_speaking:
            self._text = found.text
            self._sounds_s = self._call.now + VOICE_S
            self._until_s = self._call.now + ANSWER_S


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
    answer = np.frombuffer(loss.speech(ANSWER_LENGTH_S), np.int16).astype(np.float32) / 32_768
    rows = [overlap_row(ear, case, answer, echo_db) for case in make(which, count)]
    silent = [row["silent_ms"] for row in rows if row["stopped"]]
    ducked = [row["ducked_ms"] for row in rows if row["ducked_ms"] is not None]
    stopped = f"stopped {len(silent)} of {len(rows)}"
    return f"{stopped}; silent {spread(silent)}; ducked {spread(ducked)}", rows


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
