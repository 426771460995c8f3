"""The delay before a child process that ended is started again."""

from __future__ import annotations

PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
GOOD_LIFE_S = 60.0


class Backoff:
    """No delay after a long life; a growing one for a child that keeps dying."""

    def __init__(self) -> None:
        self.failures = 0
        """Lives in a row that were short, the last included."""

    def ended(self, lived_s: float, was_ready: bool) -> None:
        """A life is over."""
        has_served = was_ready and lived_s > GOOD_LIFE_S
        self.failures = 0 if has_served else self.failures + 1

    @property
    def pause_s(self) -> float:
        return PAUSES_S[min(max(self.failures, 1), len(PAUSES_S)) - 1]
