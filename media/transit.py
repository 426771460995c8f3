"""When a packet should arrive, learnt from those that did: base transit, spread and deadlines.

Transit is arrival time minus media time, in seconds. Only its changes mean anything: the two clocks
have unrelated origins and rates a little apart.
"""

MIN_GAP_DEADLINE_S = 0.040
MAX_GAP_DEADLINE_S = 0.200
GAP_MARGIN_S = 0.020
"""Waited on top of the measured spread before a missing packet is given up."""
SILENCE_MARGIN_S = 0.160
"""Waited on top of that when nothing follows: a stalled network delivers late, in one burst."""
WINDOW_S = 2.0
"""The base is the shortest transit of this window and the one before."""
SPREAD_DECAY = 0.998
"""Per packet: half-life of 350 packets, 7 s at 20 ms."""


class TransitTracker:
    """Track the shortest transit and how far above it packets arrive."""

    def __init__(self) -> None:
        self.base_s = 0.0
        self._previous_s = 0.0
        self._current_s = 0.0
        self._window_end_s = 0.0
        self._spread_s = 0.0

    @property
    def gap_deadline_s(self) -> float:
        """Return how long after its expected arrival a packet is waited for, others following."""
        return min(MAX_GAP_DEADLINE_S, max(MIN_GAP_DEADLINE_S, self._spread_s + GAP_MARGIN_S))

    @property
    def silence_deadline_s(self) -> float:
        """Return how long it is waited for while nothing follows."""
        return self.gap_deadline_s + SILENCE_MARGIN_S

    def reset(self, arrival_s: float, media_s: float) -> None:
        """Take one packet's transit as the base, the spread as unknown."""
        self.rebase(arrival_s, media_s)
        self._spread_s = 0.0

    def rebase(self, arrival_s: float, media_s: float) -> None:
        """Take one packet's transit as the base: the path became longer."""
        self.base_s = self._previous_s = self._current_s = arrival_s - media_s
        self._window_end_s = arrival_s + WINDOW_S

    def add(self, arrival_s: float, media_s: float) -> None:
        """Learn from one packet."""
        transit = arrival_s - media_s
        if arrival_s >= self._window_end_s:
            self._previous_s = self._current_s
            self._current_s = transit
            self._window_end_s = arrival_s + WINDOW_S
            self.base_s = min(self._previous_s, transit)
        elif transit < self._current_s:
            self._current_s = transit
            self.base_s = min(self._previous_s, transit)
        self._spread_s = max(self._spread_s * SPREAD_DECAY, transit - self.base_s)
