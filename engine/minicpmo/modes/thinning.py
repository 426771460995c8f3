"""Under too much load the model looks less often: pictures are most of what a unit costs."""

from __future__ import annotations

import time
from collections.abc import Callable

RAISE_AT = 0.75
"""Units that take so much of a unit's length soon delay the next ones."""
LOWER_AT = 0.5
RAISE_S = 1.5
"""Between two steps up: what a step has done shows in the units after the next."""
LOWER_S = 2.5
"""So long units must be quick before more is looked at: back from the last step within 10 s."""
MOST = 3


class Thinning:
    """Owned by the model's thread. `unit` is told of each unit, `looks` asked for each picture."""

    def __init__(self, unit_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`unit_ms`: length of a unit."""
        self._unit_ms = unit_ms
        self._clock = clock
        self.step = 0
        """0: every unit looks; 1 and 2: every second, every fourth; 3: none does."""
        self._changed = -RAISE_S
        self._slow = clock()
        """When the newest unit was done that was not quick."""

    def unit(self, ms: float) -> bool:
        """Note a unit, done `ms` after its sound was complete; return whether the step changed."""
        now = self._clock()
        if ms > LOWER_AT * self._unit_ms:
            self._slow = now
        if ms > RAISE_AT * self._unit_ms and self.step < MOST and now - self._changed >= RAISE_S:
            return self._go(self.step + 1, now)
        if self.step and now - max(self._slow, self._changed) >= LOWER_S:
            return self._go(self.step - 1, now)
        return False

    def looks(self, slot: int, unit: int) -> bool:
        """Return whether a session's unit may have a picture; sessions take turns."""
        if self.step == MOST:
            return False
        return (slot + unit) % (1 << self.step) == 0

    def _go(self, step: int, now: float) -> bool:
        self.step, self._changed = step, now
        return True
