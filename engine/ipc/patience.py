"""Watching for silence without taking one's own standstill for the other's death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

TICK_S = 1.0

T = TypeVar("T")


class Patience:
    """Measure for how long a peer has given no sign that could have been seen.

    Whoever watches calls `check` once a tick. A check that comes late counts two ticks at most:
    for the rest of that time this process stood still itself (a debugger, a paused machine, a
    disk that hangs) and could have seen nothing; what was said meanwhile may still wait to be read.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        tick_s: float = TICK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s = limit_s
        self.tick_s = tick_s
        self.silent_s = 0.0
        self._clock = clock
        self._checked_at = clock()

    def sign(self) -> None:
        """Note a sign of life."""
        self.silent_s = 0.0
        self._checked_at = self._clock()

    def check(self) -> bool:
        """Return whether the silence is longer than the limit."""
        now = self._clock()
        self.silent_s += min(now - self._checked_at, 2 * self.tick_s)
        self._checked_at = now
        return self.silent_s > self.limit_s


async def patiently(
    answer: asyncio.Future[T],
    limit_s: float,
    *,
    tick_s: float = TICK_S,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """The answer, or `TimeoutError` after `limit_s`, of which our own standstill counts nothing.

    For what another process is to answer: after a standstill `asyncio.timeout` is over before the
    loop has read the answer that came in time. The future itself is left alone.
    """
    tick_s = min(tick_s, limit_s)
    patience = Patience(limit_s, tick_s=tick_s, clock=clock)
    while True:
        await asyncio.wait([answer], timeout=tick_s)
        if answer.done():
            return answer.result()
        if patience.check():
            raise TimeoutError
