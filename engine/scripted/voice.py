"""The voice of a script: espeak-ng's, or tones where no words need to be understood."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from engine.base import Progress
from engine.builtin.clauses import ClauseSplitter
from engine.builtin.interfaces import Speech
from engine.builtin.synthesiser import Synthesiser
from engine.ipc.protocol import OUTPUT_HZ
from engine.scripted.script import Script

TONE_S = 0.25
GAP_S = 0.05
LOWEST_HZ = 220.0
PITCHES = 8
LEVEL = 8_000
FADE_S = 0.01


class ScriptVoice:
    """Owns the synthesiser and what it has spoken. Texts of the script are spoken once, ahead."""

    def __init__(self, script: Script) -> None:
        self._voice = script.voice
        is_spoken = script.sound == "speech"
        self._synthesiser = Synthesiser(script.voice, script.rate_wpm) if is_spoken else None
        self._spoken: dict[str, Speech] = {}

    async def start(self, texts: Iterable[str], progress: Progress) -> None:
        """Speak `texts`; raises `EngineError` if the voice is missing."""
        if self._synthesiser is not None:
            progress("loading the speech synthesiser")
            await self._synthesiser.start()
        for text in texts:
            self._spoken[text] = await self.speak(text)

    def known(self, text: str) -> Speech:
        """A text that was spoken at the start."""
        return self._spoken[text]

    async def speak(self, text: str) -> Speech:
        """The text as 24 kHz speech with its words in time."""
        if self._synthesiser is None:
            return in_tones(text)
        splitter = ClauseSplitter()
        sounds: list[NDArray[np.int16]] = []
        words: list[tuple[int, str]] = []
        done = 0
        for clause in [*splitter.push(text), *splitter.flush()]:
            speech = await self._synthesiser.speak(clause, self._voice, 1.0)
            words += [(done + at, word) for at, word in speech.words]
            sounds.append(speech.pcm)
            done += len(speech.pcm)
        return Speech(np.concatenate(sounds) if sounds else np.zeros(0, np.int16), tuple(words))

    async def close(self) -> None:
        if self._synthesiser is not None:
            await self._synthesiser.close()


def in_tones(text: str) -> Speech:
    """A tone for each word; its pitch tells the word's length."""
    at_s = np.arange(round(TONE_S * OUTPUT_HZ)) / OUTPUT_HZ
    fade = np.clip(np.minimum(at_s, TONE_S - at_s) / FADE_S, 0, 1)
    gap = np.zeros(round(GAP_S * OUTPUT_HZ), np.int16)
    sounds: list[NDArray[np.int16]] = [gap[:0]]
    words: list[tuple[int, str]] = []
    done = 0
    parts = text.split(" ")
    for place, word in enumerate(parts):
        words.append((done, word if place == len(parts) - 1 else word + " "))
        hz = LOWEST_HZ * 2 ** (len(word) % PITCHES / PITCHES)
        tone = (LEVEL * fade * np.sin(2 * np.pi * hz * at_s)).astype(np.int16)
        sounds += [tone, gap]
        done += len(tone) + len(gap)
    return Speech(np.concatenate(sounds), tuple(words))
