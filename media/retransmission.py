"""Which packets of a video stream to ask for again (RFC 4585 section 6.2.1), and when.

At once where a gap shows, then again while they may still come: what is sent again is lost as often
as anything else. Pure logic, owned by the hook of a receiver.
"""

import time
from collections.abc import Callable

MAX_MISSING = 128
"""Of the newest packets: senders remember no more of them."""
MAX_JUMP_PACKETS = 512
"""After a larger gap it is another stream."""
MAX_REQUESTS = 4
FIRST_WAIT_S = 0.15
MIN_WAIT_S, MAX_WAIT_S = 0.05, 1.0
"""Until a request is repeated: one and a half times what the answers before it took."""
PATIENCE = 1.5
WEIGHT = 0.2


class _Request:
    __slots__ = ("asked_s", "count", "first_s")

    def __init__(self, now: float) -> None:
        self.first_s = self.asked_s = now
        self.count = 1


class MissingPackets:
    """Owns what is missing of one stream; another source begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ssrc: int | None = None
        self._highest = 0
        """Extended beyond its wrap, as the keys of what is missing."""
        self._missing: dict[int, _Request] = {}
        self._wait_s = FIRST_WAIT_S

    def add(self, ssrc: int, sequence: int) -> list[int]:
        """Take a packet that came, and return the sequence numbers to ask for now."""
        now = self._clock()
        ahead = ((sequence - self._highest + 0x8000) & 0xFFFF) - 0x8000
        if ssrc != self._ssrc or abs(ahead) > MAX_JUMP_PACKETS:
            self._ssrc, self._highest = ssrc, sequence
            self._missing.clear()
            return []
        if ahead <= 0:
            self._came(self._highest + ahead, now)
            return self._due(now)
        first = max(self._highest + 1, self._highest + ahead - MAX_MISSING)
        self._highest += ahead
        new = range(first, self._highest)
        self._missing |= {missing: _Request(now) for missing in new}
        oldest = self._highest - MAX_MISSING
        for missing in [m for m in self._missing if m < oldest]:
            del self._missing[missing]
        return sorted({*(n & 0xFFFF for n in new), *self._due(now)})

    def _came(self, extended: int, now: float) -> None:
        request = self._missing.pop(extended, None)
        # Of several requests it is not known which was answered (Karn).
        if request is not None and request.count == 1:
            wait_s = min(MAX_WAIT_S, max(MIN_WAIT_S, PATIENCE * (now - request.first_s)))
            self._wait_s += WEIGHT * (wait_s - self._wait_s)

    def _due(self, now: float) -> list[int]:
        due = []
        for missing, request in self._missing.items():
            if request.count < MAX_REQUESTS and now - request.asked_s >= self._wait_s:
                request.asked_s = now
                request.count += 1
                due.append(missing & 0xFFFF)
        return due
