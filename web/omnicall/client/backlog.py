"""What a call has received and nobody has taken yet: bounded, the oldest goes first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from omnicall.client.errors import CallOver

T = TypeVar("T")


class Backlog(Generic[T]):
    """One consumer at a time; `dropped` counts what was not taken in time.

    `size` says what an entry costs, of which `limit` is kept.
    """

    def __init__(self, limit: int, size: Callable[[T], int] = lambda _: 1) -> None:
        self._entries: deque[T] = deque()
        self._limit = limit
        self._size = size
        self._kept = 0
        self._changed = asyncio.Event()
        self._end: CallOver | None = None
        self.dropped = 0

    def put(self, entry: T) -> None:
        self._entries.append(entry)
        self._kept += self._size(entry)
        while self._kept > self._limit and len(self._entries) > 1:
            self._kept -= self._size(self._entries.popleft())
            self.dropped += 1
        self._changed.set()

    def clear(self) -> None:
        """Forget what was not taken; not counted as dropped."""
        self._entries.clear()
        self._kept = 0

    def end(self, end: CallOver) -> None:
        """Let the consumer come to its end after what is still there."""
        self._end = end
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[T]:
        """Raises `CallOver` where the call did not end in order."""
        while True:
            while self._entries:
                entry = self._entries.popleft()
                self._kept -= self._size(entry)
                yield entry
            if self._end is not None:
                if self._end.is_orderly:
                    return
                raise self._end
            self._changed.clear()
            await self._changed.wait()
