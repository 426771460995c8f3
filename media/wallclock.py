"""Keeps aiortc and aioice from measuring durations with the wall clock.

They take `time.time()` for round trips (media and data channel), for the delay in receiver reports,
for the life of TURN channels and for the arrival of packets. A clock that is set in a call then
gives round trips of hours, retransmission timers at their longest and TURN channels that are never
refreshed. What they tell as a date still comes from the wall clock.
"""

from __future__ import annotations

import time
from types import ModuleType, SimpleNamespace

import aioice.turn
import aiortc.clock
import aiortc.rtcrtpreceiver
import aiortc.rtcrtpsender
import aiortc.rtcsctptransport

MEASURING: tuple[ModuleType, ...] = (
    aioice.turn,
    aiortc.rtcrtpreceiver,
    aiortc.rtcrtpsender,
    aiortc.rtcsctptransport,
)
"""The modules whose every `time.time()` is one end of a duration."""


def measure_with_monotonic_clock() -> None:
    """Once per process, before the first connection."""
    for module in MEASURING:
        vars(module)["time"] = SimpleNamespace(time=time.monotonic)
    aiortc.clock.current_ms = lambda: int(time.monotonic() * 1000)
