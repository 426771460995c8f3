"""Statistics of one stream for receiver reports: RFC 3550 section 6.4.1, appendices A.1, A.3, A.8.

Takes the place of aiortc's statistics, whose jitter breaks where the timestamp wraps and whose loss
breaks where a sequence begins anew.
"""

import time
from collections.abc import Callable
from typing import Protocol

MAX_DROPOUT_PACKETS = 3000
MAX_MISORDER_PACKETS = 100
MAX_JITTER_S = 5.0
"""A larger difference is a new start of the sender's clock, not the network's doing."""
_LOST_RANGE = range(-(1 << 23), 1 << 23)


class Header(Protocol):
    """The fields of an RTP packet that are read."""

    sequence_number: int
    timestamp: int


class StreamStatistics:
    """Count one synchronization source; the names are those that aiortc's reports read."""

    def __init__(self, hz: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.packets_received = 0
        """With duplicates, as the RFC has it."""
        self.packets_expected = 0
        self.max_seq: int | None = None
        """Extended highest sequence number: the cycles in the upper 16 bits."""
        self._hz = hz
        self._clock = clock
        self._next_if_restarted: int | None = None
        self._jitter = 0.0
        self._latest: tuple[float, int] | None = None
        self._expected_prior = 0
        self._received_prior = 0

    def add(self, packet: Header) -> None:
        """Count a packet that arrives now."""
        sequence = packet.sequence_number
        if self.max_seq is None:
            self.max_seq = sequence
            self.packets_expected += 1
        else:
            ahead = ((sequence - self.max_seq + 0x8000) & 0xFFFF) - 0x8000
            if ahead > MAX_DROPOUT_PACKETS or ahead < -MAX_MISORDER_PACKETS:
                if sequence != self._next_if_restarted:
                    self._next_if_restarted = (sequence + 1) & 0xFFFF
                    return
                # Two in a row: the sender began anew. Nothing between the two was lost.
                self.max_seq = (self.max_seq & 0xFFFF0000) | sequence
                self.packets_expected += 2
                self.packets_received += 1
                self._latest = None
            elif ahead > 0:
                self.max_seq = (self.max_seq + ahead) & 0xFFFFFFFF
                self.packets_expected += ahead
            else:
                self.packets_received += 1
                return
        self._next_if_restarted = None
        self.packets_received += 1
        self._follow_jitter(packet.timestamp)

    def _follow_jitter(self, timestamp: int) -> None:
        now = self._clock()
        if self._latest is not None and timestamp != self._latest[1]:
            ticks = ((timestamp - self._latest[1] + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
            difference = abs((now - self._latest[0]) * self._hz - ticks)
            if difference < MAX_JITTER_S * self._hz:
                self._jitter += (difference - self._jitter) / 16
        if self._latest is None or timestamp != self._latest[1]:
            self._latest = now, timestamp

    @property
    def jitter(self) -> int:
        """Return the interarrival jitter in RTP ticks."""
        return int(self._jitter)

    @property
    def jitter_s(self) -> float:
        """Return the interarrival jitter in seconds."""
        return self._jitter / self._hz

    @property
    def packets_lost(self) -> int:
        """Return the cumulative loss, negative where duplicates outweigh it, in 24 bits."""
        lost = self.packets_expected - self.packets_received
        return min(max(lost, _LOST_RANGE.start), _LOST_RANGE.stop - 1)

    @property
    def fraction_lost(self) -> int:
        """Return the loss since this was last read, in 256ths; reading begins a new interval."""
        expected = self.packets_expected - self._expected_prior
        received = self.packets_received - self._received_prior
        self._expected_prior = self.packets_expected
        self._received_prior = self.packets_received
        if expected <= 0 or received >= expected:
            return 0
        return min(255, ((expected - received) << 8) // expected)
