"""Bound the waits for another service: how long each may take, how many may wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Dropped(Exception):
    """The queue was full, and this one had waited longest."""


class WaitBudget:
    """One deadline over many waits; only `restart` resets it. Time between waits does not count."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left_s = seconds
        self.is_hurried = False
        self.is_ended = False
        """The other side reported that it is done."""

    def restart(self) -> None:
        """Reset the deadline: something awaited has arrived."""
        self._left_s = self._seconds

    def hurry(self, seconds: float) -> None:
        """Wait at most this long for the rest, because all that matters has arrived."""
        self._left_s = min(self._left_s, seconds)
        self.is_hurried = True

    @asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        """Spend what is left; raise `TimeoutError` when nothing is."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._left_s):
                yield
        finally:
            self._left_s = max(0.0, self._left_s - (loop.time() - begun))


class Gate:
    """Lets `limit` in at once and `max_waiting` wait, in order; of more the oldest is dropped."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._free = limit
        self._max_waiting = max_waiting
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def admit(self, patience: WaitBudget) -> AsyncIterator[None]:
        """Wait for a place and hold it; raise `Dropped` or `TimeoutError`."""
        await self._enter(patience)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, patience: WaitBudget) -> None:
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        if len(self._waiting) > self._max_waiting:
            self._waiting.popleft().set_exception(Dropped())
        try:
            async with patience.wait():
                await place
        except BaseException:
            if place in self._waiting:
                self._waiting.remove(place)
            elif place.done() and not place.cancelled() and place.exception() is None:
                # The place came in the same moment as the end of the wait.
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
