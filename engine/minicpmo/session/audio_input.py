"""What a session of the native engine hears: sound for units, and utterances in it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from engine.ipc.protocol import (
    INPUT_HZ,
    FromEngine,
    InputTranscript,
    SessionWarning,
    SpeechStarted,
    SpeechStopped,
    TurnDetection,
)
from engine.vad import Offset, Onset, Segmenter, Voice

UNIT_BYTES = 2 * INPUT_HZ
"""A second of sound."""
MAX_PENDING_BYTES = 2 * UNIT_BYTES
"""Sound for units that may wait. Beyond it the engine is too slow and the oldest unit is skipped:
what it hears next is then never more than one unit old."""
MAX_UTTERANCE_S = 30
WARN_EVERY_S = 10.0
NOT_TRANSCRIBED = "the model hears speech without writing it down"


class AudioInput:
    """Owned by one session. `units`: sound is kept for units; else for utterances."""

    def __init__(
        self,
        session: str,
        detection: TurnDetection,
        send: Callable[[FromEngine], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._send = send
        self._clock = clock
        self._segmenter = Segmenter(detection)
        self._pending = bytearray()
        self._arrived = 0.0
        self.complete_since = 0.0
        """When the last of the newest unit's sound came, on the monotonic clock."""
        self.is_placed = False
        """Whether the ends of its units are where they shall be; whoever places them sets it."""
        self.silence = 0
        """Samples that `add_silence` has put between its sound."""
        self._utterance = bytearray()
        self._by_hand = bytearray()
        self.utterances = 0
        self.dropped_ms = 0
        """Sound that was skipped; whoever tells it sets it back."""
        self._untold_ms = 0
        self._warned = -WARN_EVERY_S

    @property
    def is_user_speaking(self) -> bool:
        return self._segmenter.is_speaking

    @property
    def pending(self) -> int:
        """Samples that wait for their unit."""
        return len(self._pending) // 2

    @property
    def pending_ms(self) -> int:
        """Sound that waits for its unit."""
        return self.pending * 1000 // INPUT_HZ

    @property
    def waiting_s(self) -> float:
        """How long the oldest whole second of sound has been there."""
        behind_s = len(self._pending) / (2 * INPUT_HZ) - 1
        return self._clock() - self._arrived + behind_s

    def configure(self, detection: TurnDetection) -> None:
        self._segmenter.configure(detection)

    def push(
        self,
        pts: int,
        pcm: bytes,
        *,
        for_units: bool,
        strict: bool,
        arrived: float | None = None,
    ) -> list[str | Tensor]:
        """Take PCM; tells "began" at an onset and gives each utterance that ended [N], unless
        it was nothing but steady noise.

        `strict`: a false alarm would cut an answer. `arrived`: when it came, on the monotonic
        clock, if it waited before it got here.
        """
        # Half a sample would shift all that follows.
        pcm = pcm[: len(pcm) & ~1]
        if for_units:
            self._keep(pcm, self._clock() if arrived is None else arrived)
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
                    # A fan that is switched on is found to be one when it has run for a while.
                    if event.voiced_ms:
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

    def add_silence(self, count: int) -> None:
        """Put `count` samples of silence behind the sound for units."""
        self._pending += bytes(2 * count)
        self.silence += count

    def commit(self) -> Tensor:
        """Push to talk: everything since the last commit."""
        sound = samples(self._by_hand)
        self._by_hand.clear()
        return sound

    def clear(self) -> None:
        """Forget what was not yet used."""
        self._by_hand.clear()
        self._pending.clear()
        self.is_placed = False

    def _keep(self, pcm: bytes, arrived: float) -> None:
        self._pending += pcm
        self._arrived = arrived
        excess = len(self._pending) - MAX_PENDING_BYTES
        if excess > 0:
            # Whole units: the model then misses a second, not bits of several.
            units = -(-excess // UNIT_BYTES)
            del self._pending[: units * UNIT_BYTES]
            self.dropped_ms += units * 1000
            self._untold_ms += units * 1000
        now = self._clock()
        if self._untold_ms and now - self._warned >= WARN_EVERY_S:
            self._warn(now)

    def _warn(self, now: float) -> None:
        self._send(
            SessionWarning(
                self._session,
                "audio_skipped",
                f"the engine is overloaded: {self._untold_ms / 1000:g} s of sound were not heard",
            )
        )
        self._untold_ms, self._warned = 0, now

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
