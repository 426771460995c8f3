"""A client's sound that comes in messages at any pace, passed on at one that an engine takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from media.formats import SAMPLE_BYTES, UPLINK_HZ, UPLINK_PACKET_BYTES

MAX_WAITING_S = 120
MAX_PIECE_BYTES = UPLINK_HZ * SAMPLE_BYTES
SLACK_S = 1.0


class InputPace:
    """Owns the sound that waits, 16 kHz int16: what comes in its time passes at once.

    `speed` is how many times faster than real time sound may pass. More than `max_waiting_s` is not
    kept: the oldest goes. Call `tick` every 20 ms or so.
    """

    def __init__(
        self,
        sink: Callable[[int, bytes], None],
        speed: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        *,
        max_waiting_s: float = MAX_WAITING_S,
    ) -> None:
        self.received_samples = 0
        self.dropped_samples = 0
        self._sink = sink
        self._speed = speed
        self._clock = clock
        self._max_waiting_bytes = int(max_waiting_s * UPLINK_HZ) * SAMPLE_BYTES
        self._waiting = bytearray()
        self._pts = 0
        self._credit_s = SLACK_S
        self._at = clock()

    @property
    def waiting_ms(self) -> int:
        return len(self._waiting) * 1000 // (UPLINK_HZ * SAMPLE_BYTES)

    def append(self, pcm: bytes) -> None:
        """Take int16 PCM."""
        self.received_samples += len(pcm) // SAMPLE_BYTES
        self._waiting += pcm
        excess = len(self._waiting) - self._max_waiting_bytes
        if excess > 0:
            del self._waiting[:excess]
            self._pts += excess // SAMPLE_BYTES
            self.dropped_samples += excess // SAMPLE_BYTES
        self.tick()

    def tick(self) -> None:
        """Pass on what may pass by now."""
        now = self._clock()
        self._credit_s = min(SLACK_S, self._credit_s + (now - self._at) * self._speed())
        self._at = now
        if not self._waiting or self._credit_s <= 0:
            return
        size = int(self._credit_s * UPLINK_HZ) * SAMPLE_BYTES
        if size < len(self._waiting):
            # Whole packets, while more will come.
            size -= size % UPLINK_PACKET_BYTES
        self._pass(size)

    def flush(self) -> None:
        """Pass everything on at once: its end is known."""
        self._pass(len(self._waiting))

    def drop(self) -> None:
        """Forget what waits."""
        self._pts += len(self._waiting) // SAMPLE_BYTES
        self._waiting.clear()

    def _pass(self, size: int) -> None:
        size = min(size, len(self._waiting))
        for at in range(0, size, MAX_PIECE_BYTES):
            piece = bytes(self._waiting[at : min(size, at + MAX_PIECE_BYTES)])
            self._sink(self._pts, piece)
            self._pts += len(piece) // SAMPLE_BYTES
            self._credit_s -= len(piece) / (UPLINK_HZ * SAMPLE_BYTES)
        del self._waiting[:size]
