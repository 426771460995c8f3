"""A call without a network: what the built-in engine decides, on a clock that counts samples."""

from __future__ import annotations

from collections.abc import Callable

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
from tests.bench.behaviour import overlaps, sounds
from tests.bench.behaviour.sounds import RATE, Sound
from tests.speech import resample

FRAME_S = 0.02
WORDS_S = 0.2
"""From asking a recogniser to its words."""
VOICE_S = 0.06
"""From the words to the first sound of an answer."""
WAY_S = 0.08
"""From the caller to us and back, packets and jitter included."""
PATIENCE = 3.0
ANSWER_S = 4.0


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
