"""How long packets travel, and how long a missing one is worth waiting for. Owned by the buffer."""

import math

MIN_GAP_DEADLINE_S = 0.040
MAX_GAP_DEADLINE_S = 0.200
GAP_MARGIN_S = 0.020
"""Waited on top of the measured spread before a missing packet is given up."""
SILENCE_MARGIN_S = 0.160
"""Waited on top of that when nothing follows: a stalled network delivers late, in one burst."""
WINDOW_S = 2.0
"""Base and spread are those of this window and the one before: they are forgotten within 4 s."""
RECURS_S = 30.0
"""Delays that come again within this are expected again."""
RECURRENCES = 2
"""Intervals between them for which they are."""


class TransitTracker:
    """Track the shortest transit and how far above it packets arrive.

    A delay that came once is forgotten within two windows. Delays that come again and again, as of
    a radio that looks for other stations, are waited for until they have been missing twice.
    """

    def __init__(self) -> None:
        self.base_s = 0.0
        self._previous_s = 0.0
        self._current_s = 0.0
        self._window_end_s = 0.0
        self._previous_spread_s = 0.0
        self._current_spread_s = 0.0
        self._memory = PeakMemory()

    @property
    def spread_s(self) -> float:
        """Return how far above the shortest transit packets came of late."""
        return max(self._previous_spread_s, self._current_spread_s)

    @property
    def gap_deadline_s(self) -> float:
        """Return how long after its expected arrival a packet is waited for, others following."""
        spread_s = max(self.spread_s, self._memory.peak_s)
        return min(MAX_GAP_DEADLINE_S, max(MIN_GAP_DEADLINE_S, spread_s + GAP_MARGIN_S))

    @property
    def silence_deadline_s(self) -> float:
        """Return how long it is waited for while nothing follows."""
        return self.gap_deadline_s + SILENCE_MARGIN_S

    def reset(self, arrival_s: float, media_s: float) -> None:
        """Take one packet's transit as the base, the spread as unknown."""
        self.rebase(arrival_s, media_s)
        self._previous_spread_s = self._current_spread_s = 0.0

    def rebase(self, arrival_s: float, media_s: float) -> None:
        """Take one packet's transit as the base: the path became longer."""
        self.base_s = self._previous_s = self._current_s = arrival_s - media_s
        self._window_end_s = arrival_s + WINDOW_S

    def add(self, arrival_s: float, media_s: float) -> None:
        """Learn from one packet."""
        transit = arrival_s - media_s
        if arrival_s >= self._window_end_s:
            self._previous_s = self._current_s
            self._previous_spread_s = self._current_spread_s
            self._current_s, self._current_spread_s = transit, 0.0
            self._window_end_s = arrival_s + WINDOW_S
            self.base_s = min(self._previous_s, transit)
        elif transit < self._current_s:
            self._current_s = transit
            self.base_s = min(self._previous_s, transit)
        spread_s = transit - self.base_s
        self._memory.forget(arrival_s)
        if spread_s > self._current_spread_s:
            self._memory.add(spread_s, arrival_s)
            self._current_spread_s = spread_s


class PeakMemory:
    """Remember delays that recur."""

    def __init__(self) -> None:
        self.peak_s = 0.0
        """What is expected to come again; 0 for nothing."""
        self._latest_s = 0.0
        self._latest_at_s = -math.inf
        self._until_s = 0.0

    def add(self, spread_s: float, now: float) -> None:
        """Note a delay; small ones are always waited for."""
        if spread_s < MIN_GAP_DEADLINE_S:
            return
        interval_s = now - self._latest_at_s
        if interval_s <= 2 * WINDOW_S:
            # The same disturbance, which has not ended.
            spread_s = max(self._latest_s, spread_s)
        elif interval_s <= RECURS_S:
            self.peak_s = max(spread_s, self._latest_s)
            self._until_s = now + RECURRENCES * interval_s
        self._latest_s, self._latest_at_s = spread_s, now

    def forget(self, now: float) -> None:
        """Stop expecting what has not come for long enough."""
        if self.peak_s and now >= self._until_s:
            self.peak_s = 0.0
