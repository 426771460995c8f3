"""A client's sound in a session that goes on in real time: what comes too fast is skipped.

Who was kept waiting may send minutes of old sound at once; what was said then answers nothing now.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from media.formats import SAMPLE_BYTES, UPLINK_HZ

BYTES_PER_S = UPLINK_HZ * SAMPLE_BYTES
DIRECT_S = 0.5
"""So much more than real time passes at once, for networks deliver in bursts."""
HELD_S = 0.3
"""A burst is over by then."""
MAX_HELD_BYTES = 2 * BYTES_PER_S
MAX_PIECE_BYTES = BYTES_PER_S


class RealTimeInput:
    """Owns the sound of a burst, 16 kHz int16, until it is over; of one longer than 2 s the newest
    is kept. Call `tick` every 20 ms or so.

    `skipped(ms)` is told what was left out; the positions that `sink(pts, pcm)` gets jump there.
    """

    def __init__(
        self,
        sink: Callable[[int, bytes], None],
        skipped: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pts = 0
        """Samples that were passed or skipped."""
        self.skipped_samples = 0
        self._sink = sink
        self._skipped = skipped
        self._clock = clock
        self._held = bytearray()
        self._held_since = 0.0
        self._left_out = 0
        self._ahead_s = 0.0
        self._at = clock()

    def append(self, pcm: bytes) -> None:
        now = self._clock()
        self._ahead_s = max(0.0, self._ahead_s - (now - self._at))
        self._at = now
        if not self._held and self._ahead_s + len(pcm) / BYTES_PER_S <= DIRECT_S:
            self._ahead_s += len(pcm) / BYTES_PER_S
            self._pass(pcm)
            return
        if not self._held:
            self._held_since = now
        self._held += pcm
        excess = len(self._held) - MAX_HELD_BYTES
        if excess > 0:
            del self._held[:excess]
            self._left_out += excess // SAMPLE_BYTES

    def tick(self) -> None:
        """Pass on a burst that is over."""
        if not self._held or self._clock() - self._held_since < HELD_S:
            return
        held, self._held = bytes(self._held), bytearray()
        self._ahead_s = 0.0
        left_out, self._left_out = self._left_out, 0
        self.pts += left_out
        self.skipped_samples += left_out
        self._pass(held)
        if left_out:
            self._skipped(left_out * 1000 // UPLINK_HZ)

    def _pass(self, pcm: bytes) -> None:
        for at in range(0, len(pcm), MAX_PIECE_BYTES):
            piece = pcm[at : at + MAX_PIECE_BYTES]
            self._sink(self.pts, piece)
            self.pts += len(piece) // SAMPLE_BYTES
