"""A budget of CPU time: what one call's control traffic may cost its media worker."""

SHARE = 0.25
BURST_S = 2.0


class CpuBudget:
    """Admits `burst_s` CPU seconds at once and `share` of a core over time; no clock of its own.

    The cost of a packet is known only after it was handled, so a budget can be overdrawn by one
    packet: what one packet may cost is bounded where it is handled.
    """

    def __init__(self, share: float = SHARE, burst_s: float = BURST_S) -> None:
        self._share = share
        self._burst_s = burst_s
        self._left_s = burst_s
        self._at: float | None = None

    @property
    def is_exceeded(self) -> bool:
        return self._left_s < 0

    def spend(self, now: float, cost_s: float) -> float:
        """Take the CPU seconds of one packet; return for how long to handle nothing more.

        That is 0 for who is within three quarters of the burst, else as long as the packet took:
        even within its burst a call takes no more than half of a core.
        """
        if self._at is not None:
            earned_s = max(0.0, now - self._at) * self._share
            self._left_s = min(self._burst_s, self._left_s + earned_s)
        self._at = now
        self._left_s -= cost_s
        return 0.0 if self._left_s > self._burst_s / 4 else cost_s
