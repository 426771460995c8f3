"""What a session of the native engine hears: sound for units, and utterances in it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from engine.protocol import (
    INPUT_HZ,
    FromEngine,
    InputTranscript,
    SpeechStarted,
    SpeechStopped,
    TurnDetection,
)
from engine.vad import Offset, Onset, Segmenter, Voice

MAX_PENDING_S = 2
"""Sound for units that may wait: beyond it the engine is too slow, and the oldest is dropped."""
MAX_UTTERANCE_S = 30
NOT_TRANSCRIBED = "the model hears speech without writing it down"


class Hearing:
    """Owned by one session. `units`: sound is kept for units; else for utterances."""

    def __init__(
        self, session: str, detection: TurnDetection, send: Callable[[FromEngine], None]
    ) -> None:
        self._session = session
        self._send = send
        self._segmenter = Segmenter(detection)
        self._pending = bytearray()
        self._arrived = 0.0
        self.complete_since = 0.0
        """When the last of the newest unit's sound came, on the monotonic clock."""
        self._utterance = bytearray()
        self._by_hand = bytearray()
        self.utterances = 0
        self.dropped_ms = 0

    @property
    def is_user_speaking(self) -> bool:
        return self._segmenter.is_speaking

    @property
    def pending_ms(self) -> int:
        """Sound that waits for its unit."""
        return len(self._pending) * 1000 // (2 * INPUT_HZ)

    @property
    def waiting_s(self) -> float:
        """How long the oldest whole second of sound has been there."""
        behind_s = len(self._pending) / (2 * INPUT_HZ) - 1
        return time.monotonic() - self._arrived + behind_s

    def configure(self, detection: TurnDetection) -> None:
        self._segmenter.configure(detection)

    def push(self, pts: int, pcm: bytes, *, for_units: bool, strict: bool) -> list[str | Tensor]:
        """Take PCM; tells "began" at an onset and gives each utterance that ended [N].

        `strict`: a false alarm would cut an answer.
        """
        if for_units:
            self._keep(pcm)
        else:
            self._by_hand += pcm
            del self._by_hand[: -2 * INPUT_HZ * MAX_UTTERANCE_S]
        found: list[str | Tensor] = []
        for event in self._segmenter.push(pts, pcm, strict=strict):
            match event:
                case Onset():
                    self.utterances += 1
                    self._utterance = bytearray(event.pcm)
                    self._send(SpeechStarted(self._session, self.utterances, event.pts))
                    found.append("began")
                case Voice():
                    self._utterance += event.pcm
                    del self._utterance[: -2 * INPUT_HZ * MAX_UTTERANCE_S]
                case Offset():
                    self._stopped(event.pts)
                    found.append(samples(self._utterance))
        return found

    def take_unit(self, count: int) -> Tensor | None:
        """The next `count` samples for a unit, or None."""
        size = 2 * count
        if len(self._pending) < size:
            return None
        chunk = samples(self._pending[:size])
        del self._pending[:size]
        behind_s = len(self._pending) / (2 * INPUT_HZ)
        self.complete_since = self._arrived - behind_s
        return chunk

    def commit(self) -> Tensor:
        """Push to talk: everything since the last commit."""
        sound = samples(self._by_hand)
        self._by_hand.clear()
        return sound

    def clear(self) -> None:
        """Forget what was not yet used."""
        self._by_hand.clear()
        self._pending.clear()

    def _keep(self, pcm: bytes) -> None:
        self._pending += pcm
        self._arrived = time.monotonic()
        excess = len(self._pending) - 2 * INPUT_HZ * MAX_PENDING_S
        if excess > 0:
            # A whole second at once: the model then misses a unit, not bits of several.
            drop = max(excess, 2 * INPUT_HZ)
            del self._pending[:drop]
            self.dropped_ms += drop * 1000 // (2 * INPUT_HZ)

    def _stopped(self, pts: int) -> None:
        self._send(SpeechStopped(self._session, self.utterances, pts))
        self._send(
            InputTranscript(
                self._session,
                self.utterances,
                "",
                final=True,
                error=NOT_TRANSCRIBED,
                code="not_transcribed",
            )
        )


def samples(pcm: bytes | bytearray) -> Tensor:
    """int16 PCM as float [N] in [-1, 1]."""
    return torch.from_numpy(np.frombuffer(bytes(pcm), np.int16).astype(np.float32) / 32768)
