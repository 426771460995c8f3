"""Synthesise clauses: espeak-ng on its own thread, trimmed, levelled, resampled to 24 kHz."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from engine.base import EngineError
from engine.builtin.clauses import Clause, is_silent, speakable
from engine.builtin.espeak import Espeak, SynthesisedText, shared_espeak
from engine.builtin.interfaces import Speech
from engine.builtin.resampler import Resampler
from engine.ipc.protocol import OUTPUT_HZ

HEAD_MS = 8
"""Silence kept before the first sound: enough for the onset, too little to delay the answer."""
TAIL_MS = 12
QUIET = 60
"""Samples below this are silence, about -55 dBFS."""
PEAK_LIMIT = 23_000
"""-3 dBFS; a louder clause is turned down as a whole."""

_WORD = re.compile(r"\s*\S+\s*")


class Synthesiser:
    """Owns the speech library and its only thread."""

    def __init__(self, voice: str, rate_wpm: int) -> None:
        self._voice = voice
        self._rate_wpm = rate_wpm
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="espeak")
        self._espeak: Espeak | None = None
        self._resampler: Resampler | None = None

    async def start(self) -> None:
        """Load and speak once; raise `EngineError` if the library or the voice is missing."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    def _load(self) -> None:
        self._espeak = shared_espeak()
        self._resampler = Resampler(self._espeak.sample_rate, OUTPUT_HZ)
        if not self._espeak.has_voice(self._voice):
            raise EngineError(f"espeak-ng has no voice {self._voice!r}")
        self._render(Clause("Ready."), self._voice, 1.0, threading.Event())

    def has_voice(self, voice: str) -> bool:
        """Whether `voice` can speak; False before the start."""
        return self._espeak is not None and self._espeak.has_voice(voice)

    async def speak(self, clause: Clause, voice: str, speed: float) -> Speech:
        """The clause as 24 kHz speech with its words in time; cancelling stops the library."""
        if is_silent(clause.text):
            return Speech(np.zeros(0, np.int16), ((0, clause.text),))
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._thread, self._render, clause, voice or self._voice, speed, stop
            )
        finally:
            stop.set()

    def _render(self, clause: Clause, voice: str, speed: float, stop: threading.Event) -> Speech:
        assert self._espeak is not None and self._resampler is not None
        if stop.is_set():
            return Speech(np.zeros(0, np.int16), ())
        rate_wpm = round(self._rate_wpm * speed)
        spoken = self._espeak.speak(speakable(clause.text), voice, rate_wpm, stop.is_set)
        pcm, cut = trim(spoken.pcm, self._espeak.sample_rate)
        body = np.concatenate([self._resampler.push(pcm), self._resampler.flush()])
        pause = np.zeros(round(clause.pause_ms / max(speed, 0.5)) * OUTPUT_HZ // 1000, np.int16)
        pcm = np.concatenate([level(body), pause])
        words = place_words(clause.text, spoken, cut * 1000 / self._espeak.sample_rate, len(pcm))
        return Speech(pcm, words)

    async def close(self) -> None:
        """Wait for the clause being spoken, at most a few milliseconds."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)


def trim(pcm: NDArray[np.int16], sample_rate: int) -> tuple[NDArray[np.int16], int]:
    """Cut the silence at both ends; also tell how many samples went at the start."""
    loud = np.nonzero(np.abs(pcm.astype(np.int32)) > QUIET)[0]
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
