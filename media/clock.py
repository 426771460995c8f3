"""The 20 ms tick that all calls of a media worker share.

One timer on an absolute schedule: no drift, and after a stall it goes on at the next tick instead
of catching up. Owned by the worker, in its event loop.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from media.formats import PTIME_S

logger = logging.getLogger(__name__)

Callback = Callable[[], None]

PHASES = 5
"""Groups of calls that tick at different times within the 20 ms: 24 calls encoding at one instant
hold the loop for 4 ms. Five timers instead of one cost no measurable CPU. The number is odd because
calls subscribe twice, what they send before what they hear: of an even one half the groups would
have all the encoding."""


class Timers(Protocol):
    """The part of an event loop that the ticker needs."""

    def time(self) -> float:
        """Return monotonic seconds."""

    def call_at(self, when: float, callback: Callback, /) -> asyncio.TimerHandle:
        """Run `callback` at `when`."""


class Ticker:
    """Call every subscriber once each 20 ms; the timer runs only while there are any.

    Subscribers are spread over `phases` equal parts of the interval, so that their work does not
    fall on one instant.
    """

    def __init__(self, *, phases: int = PHASES, timers: Timers | None = None) -> None:
        assert phases >= 1, phases
        self.skipped_ticks = 0
        """Ticks left out because the event loop was late by a whole interval or more."""
        self.late_s = 0.0
        """Delay of the latest tick."""
        self._timers: Timers = timers or asyncio.get_running_loop()
        self._groups: list[list[Callback]] = [[] for _ in range(phases)]
        self._group = 0
        self._interval_s = PTIME_S / phases
        self._due_s = 0.0
        self._handle: asyncio.TimerHandle | None = None

    @property
    def num_subscribers(self) -> int:
        """Return how many callbacks tick."""
        return sum(map(len, self._groups))

    def subscribe(self, callback: Callback) -> Callback:
        """Call `callback` each 20 ms until the returned function is called (any number of times).

        A callback that raises is logged and unsubscribed.
        """
        group = min(self._groups, key=len)
        group.append(callback)
        if self._handle is None:
            self._due_s = self._timers.time() + self._interval_s
            self._handle = self._timers.call_at(self._due_s, self._tick)

        def unsubscribe() -> None:
            if callback in group:
                group.remove(callback)

        return unsubscribe

    def close(self) -> None:
        """Stop ticking and forget all subscribers."""
        for group in self._groups:
            group.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        now = self._timers.time()
        self.late_s = max(0.0, now - self._due_s)
        if not self.num_subscribers:
            self._handle = None
            return
        skipped = int(self.late_s / self._interval_s)
        if skipped >= len(self._groups):
            # Whole rounds are left out; the order of the groups stays.
            rounds = skipped // len(self._groups)
            self.skipped_ticks += rounds
            self._due_s += rounds * PTIME_S
        self._due_s += self._interval_s
        self._handle = self._timers.call_at(self._due_s, self._tick)
        group = self._groups[self._group]
        self._group = (self._group + 1) % len(self._groups)
        for callback in tuple(group):
            try:
                callback()
            except Exception:
                logger.exception("a tick callback failed and is unsubscribed")
                if callback in group:
                    group.remove(callback)
