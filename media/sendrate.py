"""How an answer is encoded for the way to one client: bit rate and share of redundancy.

Follows what the client reports (RFC 3550 section 6.4.2). Loss while the round trip stays short is
the radio's doing: more redundancy, paid for with bits of its own. A round trip that grows, or loss
beyond what redundancy repairs, is a queue that is full: fewer bits, and more again only after a
while. Pure logic, owned by the downlink.
"""

import math
from typing import NamedTuple

MIN_BITRATE = 12_000
MAX_FEC_PERCENT = 25
"""Also the most by which the bit rate is raised to pay for it."""
MAX_RADIO_LOSS = 0.35
"""Whoever loses more within a report has a full queue, however short its round trip is."""
FEC_OF_LOSS = 2
"""Redundancy for a reported loss: a report is an average, and packets are lost in spells."""
FEC_FALL_PER_S = 1.0
"""Percent by which redundancy falls: losses come in spells."""
QUEUE_S = 0.150
"""A round trip that is longer by so much than the shortest tells of a queue by itself,"""
LOSSY_QUEUE_S = 0.050
"""by so much if packets are lost as well;"""
QUEUE_LOSS = 0.02
"""above this share of them."""
DECREASE = 0.8
INCREASE = 1.1
HOLD_S = 5.0
"""After a decrease the bit rate stays for so long."""
BASE_WINDOW_S = 20.0
"""The shortest round trip is that of this window and the one before."""
COPY_FEC_PERCENT = 6
"""From here on, packets carry copies of earlier ones where the client takes them (RFC 2198)."""
STEP = 0.05
"""Smaller changes of the bit rate are not worth making."""


class Encoding(NamedTuple):
    """How to encode from now on."""

    bitrate: int
    fec_percent: int
    """The loss that redundancy is dimensioned for; 0: none."""
    has_copies: bool = False
    """Whether each packet is to carry a copy of an earlier one, which doubles what is sent."""


class SendRate:
    """Follow the reports about one stream.

    `bitrate`, bit/s, is that of a clean way; with redundancy it is never more than `most`, copies
    included.
    """

    def __init__(self, bitrate: int, *, most: float = math.inf) -> None:
        self.encoding = Encoding(bitrate, 0)
        self._full = bitrate
        self._most = most
        self._least = min(bitrate, MIN_BITRATE)
        self._wanted = float(bitrate)
        """Without what is added for redundancy."""
        self._fec = 0.0
        self._reported_s: float | None = None
        self._held_until_s = -math.inf
        self._round_trips = _Shortest()

    def report(self, now: float, fraction_lost: float, round_trip_s: float | None) -> Encoding:
        """Take a report that came now: the loss since the one before, 0 to 1."""
        elapsed_s = 0.0 if self._reported_s is None else now - self._reported_s
        self._reported_s = now
        queue_s = 0.0 if round_trip_s is None else self._round_trips.excess(now, round_trip_s)
        self._fec = max(FEC_OF_LOSS * fraction_lost * 100, self._fec - elapsed_s * FEC_FALL_PER_S)
        self._fec = min(MAX_FEC_PERCENT, self._fec)
        is_queue = queue_s > (LOSSY_QUEUE_S if fraction_lost > QUEUE_LOSS else QUEUE_S)
        if is_queue or fraction_lost > MAX_RADIO_LOSS:
            self._wanted = max(self._least, self._wanted * DECREASE)
            self._held_until_s = now + HOLD_S
        elif now >= self._held_until_s and queue_s < LOSSY_QUEUE_S:
            self._wanted = min(self._full, self._wanted * INCREASE)
        self.encoding = self._rounded(is_free=now >= self._held_until_s)
        return self.encoding

    def _rounded(self, is_free: bool) -> Encoding:
        fec_percent = round(self._fec)
        wanted = self._wanted
        has_copies = False
        if is_free and wanted == self._full:
            wanted *= 1 + fec_percent / 100
            has_copies = fec_percent >= COPY_FEC_PERCENT and 2 * wanted <= self._most
        bitrate = round(min(self._most, wanted))
        current = self.encoding.bitrate
        is_end = bitrate in (self._full, self._least)
        if abs(bitrate - current) < STEP * current and not is_end:
            bitrate = current
        return Encoding(bitrate, fec_percent, has_copies)


class _Shortest:
    """The shortest round trip of late, and how far above it one is."""

    def __init__(self) -> None:
        self._previous_s = math.inf
        self._current_s = math.inf
        self._window_end_s = -math.inf

    def excess(self, now: float, round_trip_s: float) -> float:
        if now >= self._window_end_s:
            self._previous_s, self._current_s = self._current_s, round_trip_s
            self._window_end_s = now + BASE_WINDOW_S
        self._current_s = min(self._current_s, round_trip_s)
        return round_trip_s - min(self._previous_s, self._current_s)
