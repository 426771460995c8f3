"""What a recording says: its utterances, one after the other, through a session's recogniser."""

from __future__ import annotations

import asyncio

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.builtin.interfaces import Recogniser, Utterance
from engine.hearing.vad import Offset, Onset, Segmenter, Voice
from engine.ipc.protocol import INPUT_HZ, SpokenSegment, TurnDetection

STEP = INPUT_HZ // 2
"""Samples that are looked at before others have their turn."""
PAUSES = TurnDetection(silence_duration_ms=500)
NO_SPEECH = "no speech was found in it"
NOT_UNDERSTOOD = "nothing of what is said was understood"


class HeardRecording(Struct, frozen=True):
    segments: tuple[SpokenSegment, ...] = ()
    error: str = ""
    """Why there are none, for people."""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


class _Listening:
    """Owns the utterance under way and what was understood so far."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._words: Utterance | None = None
        self._start = 0
        self.segments: list[SpokenSegment] = []
        self.error = NO_SPEECH

    async def take(self, event: Onset | Voice | Offset) -> None:
        match event:
            case Onset(pts=pts, pcm=pcm):
                self._start = pts
                self._words = self._recogniser.listen(lambda _: None)
                self._words.feed(pcm)
            case Voice(pcm=pcm):
                if self._words is not None:
                    self._words.feed(pcm)
            case Offset(pts=pts, voiced_ms=voiced_ms):
                if voiced_ms == 0:
                    self.close()
                words, self._words = self._words, None
                if words is not None:
                    await self._understand(words, pts)

    def close(self) -> None:
        if self._words is not None:
            self._words.abandon()
            self._words = None

    async def _understand(self, words: Utterance, end: int) -> None:
        transcript = await words.finish()
        if transcript.text:
            start_ms, end_ms = self._start * 1000 // INPUT_HZ, end * 1000 // INPUT_HZ
            self.segments.append(SpokenSegment(start_ms, end_ms, transcript.text))
        else:
            self.error = transcript.error or NOT_UNDERSTOOD


async def hear(sound: NDArray[np.float32], recogniser: Recogniser) -> HeardRecording:
    """Listen to [N] samples of 16 kHz in [-1, 1]."""
    pcm = (np.clip(sound, -1, 1) * 32_767).astype(np.int16)
    segmenter = Segmenter(PAUSES)
    listening = _Listening(recogniser)
    try:
        for start in range(0, len(pcm), STEP):
            step = pcm[start : start + STEP].tobytes()
            for event in segmenter.push(start, step, strict=False):
                await listening.take(event)
            await asyncio.sleep(0)
        for event in segmenter.stop():
            await listening.take(event)
    finally:
        listening.close()
    if not listening.segments:
        return HeardRecording(error=listening.error)
    return HeardRecording(tuple(listening.segments))
