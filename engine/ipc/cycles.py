"""Reference cycles: freed soon after a session has ended, in every process that has sessions.

Python looks at old objects again once a quarter as many have been added, so all that was loaded,
some 40 000 objects, keeps hundreds of sessions that are over in memory, with their sound.
"""

from __future__ import annotations

import asyncio
import gc

COLLECT_AFTER_S = 10.0
"""What ends within that time goes in one collection, which takes a millisecond or two."""


class CycleCollector:
    """Made once all is loaded: that stays, and no collection looks at it again."""

    def __init__(self) -> None:
        self._has_ended = asyncio.Event()
        gc.collect()
        gc.freeze()

    def ended(self) -> None:
        """A session is over: it is a knot of cycles."""
        self._has_ended.set()

    async def run(self) -> None:
        """Collect; until cancelled."""
        while True:
            await self._has_ended.wait()
            await asyncio.sleep(COLLECT_AFTER_S)
            self._has_ended.clear()
            gc.collect()
