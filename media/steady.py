"""Sound that goes out in messages as steadily as on a track: 100 ms at a time, silence included."""

from __future__ import annotations

import time
from collections.abc import Callable

from media.formats import DOWNLINK_PACKET_BYTES, PTIME_MS, PTIME_S

PIECE_PACKETS = 100 // PTIME_MS
MAX_CATCH_UP_PACKETS = 2 * PIECE_PACKETS
"""After a standstill; what is longer was a pause for everybody."""
SILENCE = bytes(DOWNLINK_PACKET_BYTES)


class SteadyOutput:
    """Takes 20 ms of 24 kHz PCM for each 20 ms of the clock. Call `tick` about that often.

    `emit(pcm, is_silent)` gets each 100 ms: never more than that ahead of their time, for what a
    client has cannot be taken back.
    """

    def __init__(
        self,
        take: Callable[[], bytes | None],
        emit: Callable[[bytes, bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sent_packets = 0
        self._take = take
        self._emit = emit
        self._clock = clock
        self._since: float | None = None
        self._taken = 0
        self._piece: list[bytes | None] = []

    def tick(self) -> None:
        """Take what is due."""
        now = self._clock()
        if self._since is None:
            self._since = now
        due = int((now - self._since) / PTIME_S + 1e-6) - self._taken
        if due > MAX_CATCH_UP_PACKETS:
            self._since += (due - MAX_CATCH_UP_PACKETS) * PTIME_S
            due = MAX_CATCH_UP_PACKETS
        for _ in range(due):
            self._taken += 1
            self._piece.append(self._take())
            if len(self._piece) == PIECE_PACKETS:
                piece, self._piece = self._piece, []
                self.sent_packets += PIECE_PACKETS
                is_silent = all(packet is None for packet in piece)
                self._emit(b"".join(packet or SILENCE for packet in piece), is_silent)
