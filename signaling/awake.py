"""Time that passed while this process ran; by it deadlines for others are measured. Any process."""

import time
from collections.abc import Callable


class AwakeClock:
    """Seconds, without most of what this process stood still (a paused machine, a stuck disk).

    Whoever measures looks once a tick. A look that comes late counts two ticks at most: nothing
    could be heard meanwhile, and what was said may still wait to be read.
    """

    def __init__(self, tick_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._tick_s = tick_s
        self._clock = clock
        self._looked_at = clock()
        self._awake_s = 0.0

    def __call__(self) -> float:
        now = self._clock()
        self._awake_s += min(now - self._looked_at, 2 * self._tick_s)
        self._looked_at = now
        return self._awake_s
