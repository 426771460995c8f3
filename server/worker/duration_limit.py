"""The longest duration of a call: it is ended, not without a word before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.worker.audience import Audience
from signaling.session import events as ev

ANNOUNCED_S = 30.0
"""So long before the end it is announced,"""
ANNOUNCED_SHARE = 0.25
"""or this share of a short duration."""


async def run_down(longest_s: float, audience: Audience, end: Callable[[str], None]) -> None:
    """End a call when it has been served for so long."""
    announced_s = min(ANNOUNCED_S, longest_s * ANNOUNCED_SHARE)
    await asyncio.sleep(longest_s - announced_s)
    left = f"{announced_s:.0f} s" if announced_s >= 1 else "a moment"
    message = f"This call ends in {left}: the longest duration of a call is then reached."
    audience.emit(ev.Notice(code="call_ends_soon", message=message))
    await asyncio.sleep(announced_s)
    end("max_duration")
