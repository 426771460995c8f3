"""The calls that ended lately, for who runs the server. Front."""

from __future__ import annotations

from collections import deque

import msgspec

MAX_KEPT = 100


class PastCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that is over: nothing of what was said in it."""

    call_id: str
    remote: str
    began_at: int
    """Unix seconds."""
    seconds: float
    reason: str
    worker: str
    engine: str
    """Empty: none served it."""
    mode: str
    """Of its end; empty: it had not begun, or its media worker died."""
    turns: int
    latency_ms: dict[str, float]
    """Of its last turn."""


class PastCalls:
    """Owns the newest ones, in memory only."""

    def __init__(self, most: int = MAX_KEPT) -> None:
        self._kept: deque[PastCall] = deque(maxlen=most)

    def add(self, call: PastCall) -> None:
        self._kept.appendleft(call)

    def newest_first(self) -> tuple[PastCall, ...]:
        return tuple(self._kept)
