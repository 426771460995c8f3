"""Memory of sessions that are over: freed soon, in every process that has sessions.

A session is a knot of reference cycles. Python looks at old objects again once a quarter as many
have been added, so all that was loaded, some 40 000 objects, keeps hundreds of sessions that are
over in memory, with their sound.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable

COLLECT_AFTER_S = 10.0
"""What ends within that time goes in one collection, which takes a millisecond or two."""
TRIM_AFTER_S = 60.0
"""From one return of freed pages to the system to the next: it takes up to 10 ms, in a thread."""


def return_pages() -> None:
    """Give the pages that the C library has free back to the system, where it can (glibc).

    By itself it returns what lies at the end of a heap only: memory would grow in steps.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    trim(0)


class CycleCollector:
    """Made once all is loaded: that stays, and no collection looks at it again."""

    def __init__(
        self,
        *,
        return_pages: Callable[[], None] = return_pages,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._return_pages = return_pages
        self._clock = clock
        self._trimmed_at = clock()
        self._has_ended = asyncio.Event()
        gc.collect()
        gc.freeze()

    def ended(self) -> None:
        """A session is over: it is a knot of cycles."""
        self._has_ended.set()

    async def run(self) -> None:
        """Collect; until cancelled."""
        owes_pages = False
        while True:
            try:
                async with asyncio.timeout(TRIM_AFTER_S if owes_pages else None):
                    await self._has_ended.wait()
            except TimeoutError:
                is_due = True
            else:
                await asyncio.sleep(COLLECT_AFTER_S)
                self._has_ended.clear()
                gc.collect()
                is_due = self._clock() - self._trimmed_at >= TRIM_AFTER_S
            owes_pages = not is_due
            if is_due:
                self._trimmed_at = self._clock()
                await asyncio.to_thread(self._return_pages)
