"""Synthesise clauses: by a neural voice or by espeak-ng, trimmed, levelled, resampled to 24 kHz."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.base import EngineError
from engine.builtin.clauses import Clause, is_silent, speakable
from engine.builtin.espeak import NORMAL_RATE, Espeak, SynthesisedText, shared_espeak
from engine.builtin.interfaces import Speech
from engine.builtin.piper import PiperVoice
from engine.builtin.resampler import Resampler
from engine.builtin.speech_models import VoiceFile
from engine.ipc.protocol import OUTPUT_HZ

BASIC_VOICE = "en-us"
HEAD_MS = 8
"""Silence kept before the first sound: enough for the onset, too little to delay the answer."""
TAIL_MS = 12
QUIET = 60
"""Samples below this are silence, about -55 dBFS."""
NEURAL_QUIET = 240
"""The same for neural voices, which breathe."""
PEAK_LIMIT = 23_000
"""-3 dBFS; a louder clause is turned down as a whole."""
NEURAL_PEAK = 20_000
"""Neural voices speak each clause as loud as another."""
MIN_PEAK = 0.05
"""Of full scale; what is weaker than this was not meant to be heard."""
DIGIT_WEIGHT = 4
"""A digit is a whole word."""

_WORD = re.compile(r"\s*\S+\s*")
_EMPTY = np.zeros(0, np.int16)


class Synthesiser:
    """Owns the speech library, the neural voices, and a thread for each of the two."""

    def __init__(
        self,
        voice: str,
        rate_wpm: int,
        neural: Sequence[VoiceFile] = (),
        repeated: Collection[str] = (),
    ) -> None:
        """`voice` speaks where no other is asked for; empty: the first of the `neural` ones, else
        `BASIC_VOICE`. The `repeated` clauses are said over and over: neural voices keep them."""
        self._files = {file.name: file for file in neural}
        self.voice = voice or next(iter(self._files), BASIC_VOICE)
        self._rate_wpm = rate_wpm
        self._repeated = frozenset(repeated)
        self._kept: dict[tuple[Clause, str, float], Speech] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="espeak")
        self._neural_thread = ThreadPoolExecutor(1, thread_name_prefix="piper")
        self._output, self._neural_output = _ToOutput(), _ToOutput()
        self._espeak: Espeak | None = None
        self._neural: dict[str, PiperVoice] = {}

    @property
    def neural_voices(self) -> tuple[str, ...]:
        return tuple(self._files)

    async def start(self) -> None:
        """Load and speak once; raise `EngineError` if the library or the voice is missing."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        await self.speak(Clause("Ready."), "", 1.0)

    def _load(self) -> None:
        self._espeak = shared_espeak()
        if not self.has_voice(self.voice):
            raise EngineError(f"there is no voice {self.voice!r}")

    def has_voice(self, voice: str) -> bool:
        """Whether `voice` can speak; False before the start."""
        if self._espeak is None:
            return False
        return voice in self._files or self._espeak.has_voice(voice)

    async def speak(self, clause: Clause, voice: str, speed: float) -> Speech:
        """The clause as 24 kHz speech with its words in time; cancelling ends the work."""
        if is_silent(clause.text):
            return Speech(_EMPTY, ((0, clause.text),))
        voice = voice or self.voice
        if voice in self._files:
            return await self._speak_neural(clause, voice, speed)
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._thread, self._render, clause, voice, speed, stop.is_set
            )
        finally:
            stop.set()

    async def _speak_neural(self, clause: Clause, name: str, speed: float) -> Speech:
        key = (clause, name, speed)
        if (kept := self._kept.get(key)) is not None:
            return kept
        loop = asyncio.get_running_loop()
        voice = await loop.run_in_executor(self._neural_thread, self._neural_voice, name)
        run = voice.cancellable()
        try:
            speech = await loop.run_in_executor(
                self._neural_thread, self._render_neural, clause, voice, speed, run
            )
        finally:
            run.terminate = True
        if clause.text in self._repeated and speed == 1.0:
            self._kept[key] = speech
        return speech

    def _neural_voice(self, name: str) -> PiperVoice:
        """On the thread of these voices, so that nobody loads one twice."""
        if name not in self._neural:
            self._neural[name] = PiperVoice(self._files[name])
        return self._neural[name]

    def _render(
        self, clause: Clause, voice: str, speed: float, is_stopped: Callable[[], bool]
    ) -> Speech:
        assert self._espeak is not None
        if is_stopped():
            return Speech(_EMPTY, ())
        rate_wpm = round(self._rate_wpm * speed)
        spoken = self._espeak.speak(speakable(clause.text), voice, rate_wpm, is_stopped)
        rate = self._espeak.sample_rate
        pcm, cut = trim(spoken.pcm, rate)
        pcm = _with_pause(level(self._output.of(pcm, rate)), clause, speed)
        return Speech(pcm, place_words(clause.text, spoken, cut * 1000 / rate, len(pcm)))

    def _render_neural(self, clause: Clause, voice: PiperVoice, speed: float, run: Any) -> Speech:
        assert self._espeak is not None
        if run.terminate:
            return Speech(_EMPTY, ())
        phonemes = self._espeak.phonemes(speakable(clause.text), voice.phonemiser)
        sound = voice.speak(phonemes, speed * self._rate_wpm / NORMAL_RATE, run)
        sound *= NEURAL_PEAK / max(float(np.abs(sound).max(initial=0.0)), MIN_PEAK)
        body, _ = trim(sound.astype(np.int16), voice.sample_rate, NEURAL_QUIET)
        body = self._neural_output.of(body, voice.sample_rate)
        words = spread_words(clause.text, " ".join(ipa for ipa, _ in phonemes), len(body))
        return Speech(_with_pause(body, clause, speed), words)

    async def close(self) -> None:
        """Wait for what is being spoken or loaded; cancelled clauses end at once."""
        for thread in (self._thread, self._neural_thread):
            await asyncio.to_thread(thread.shutdown, wait=True, cancel_futures=True)


class _ToOutput:
    """Owns the resamplers of a thread."""

    def __init__(self) -> None:
        self._resamplers: dict[int, Resampler] = {}

    def of(self, pcm: NDArray[np.int16], sample_rate: int) -> NDArray[np.int16]:
        """A whole clause at 24 kHz."""
        resampler = self._resamplers.get(sample_rate)
        if resampler is None:
            resampler = self._resamplers[sample_rate] = Resampler(sample_rate, OUTPUT_HZ)
        return np.concatenate([resampler.push(pcm), resampler.flush()])


def _with_pause(pcm: NDArray[np.int16], clause: Clause, speed: float) -> NDArray[np.int16]:
    pause_ms = round(clause.pause_ms / max(speed, 0.5))
    return np.concatenate([pcm, np.zeros(pause_ms * OUTPUT_HZ // 1000, np.int16)])


def trim(
    pcm: NDArray[np.int16], sample_rate: int, quiet: int = QUIET
) -> tuple[NDArray[np.int16], int]:
    """Cut the silence at both ends; also tell how many samples went at the start."""
    loud = np.nonzero(np.abs(pcm.astype(np.int32)) > quiet)[0]
    if not len(loud):
        return pcm[:0], len(pcm)
    start = max(0, int(loud[0]) - HEAD_MS * sample_rate // 1000)
    end = min(len(pcm), int(loud[-1]) + TAIL_MS * sample_rate // 1000)
    return pcm[start:end], start


def level(pcm: NDArray[np.int16]) -> NDArray[np.int16]:
    """Turn the clause down if its peak is above -3 dBFS."""
    peak = int(np.abs(pcm.astype(np.int32)).max(initial=0))
    if peak <= PEAK_LIMIT:
        return pcm
    return (pcm.astype(np.float32) * (PEAK_LIMIT / peak)).astype(np.int16)


def place_words(
    text: str, spoken: SynthesisedText, cut_ms: float, total_samples: int
) -> tuple[tuple[int, str], ...]:
    """Pair each word of `text`, white space included, with the 24 kHz sample it is spoken at."""
    placed: list[tuple[int, str]] = []
    events = list(spoken.words)
    at_ms = cut_ms
    for match in _WORD.finditer(text):
        here = [ms for position, ms in events if match.start() <= position < match.end()]
        at_ms = max(at_ms, here[0]) if here else at_ms
        sample = min(int((at_ms - cut_ms) * OUTPUT_HZ / 1000), total_samples)
        placed.append((sample, match.group()))
    return tuple(placed)


def spread_words(text: str, ipa: str, total_samples: int) -> tuple[tuple[int, str], ...]:
    """The same where only the phonemes are known: each word takes its share of them, or of the
    letters if numbers and signs are read as several words."""
    words = _WORD.findall(text)
    spoken = ipa.split()
    if len(spoken) == len(words):
        weights = [float(len(word)) for word in spoken]
    else:
        weights = [
            sum(DIGIT_WEIGHT if char.isdigit() else 1.0 for char in word if char.isalnum())
            for word in words
        ]
    starts = np.cumsum([0.0, *weights[:-1]]) / max(1.0, sum(weights))
    return tuple(
        (int(start * total_samples), word) for start, word in zip(starts, words, strict=True)
    )
