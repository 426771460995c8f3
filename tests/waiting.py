"""Waiting for what other threads and processes do, in tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.005
PATIENCE_S = 120.0
"""How long a test waits for what has to come: it only bounds a test that fails."""


async def until(condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Let the loop run until `condition()`."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - other threads and processes set no event
            await asyncio.sleep(POLL_S)


def until_blocking(condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """The same without an event loop."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        time.sleep(POLL_S)


class Clock:
    """Time that moves when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
