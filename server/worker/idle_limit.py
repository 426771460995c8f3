"""A call in which nobody says anything any more: it is ended, not without a word before."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from server.worker.conversation import Conversation
from signaling.session import events as ev

ANNOUNCED_S = 30.0
"""So long before the end it is announced,"""
ANNOUNCED_SHARE = 0.25
"""or this share of a short limit."""


class IdleLimit:
    """Owns for how long neither side said, wrote or changed anything; call `look` once a second."""

    def __init__(
        self,
        limit_s: float,
        conversation: Conversation,
        end: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit_s`: 0 for none."""
        self._limit_s = limit_s
        self._conversation = conversation
        self._end = end
        self._clock = clock
        self._since = clock()
        self._seen: Any = None
        self._is_announced = False

    def look(self) -> None:
        """Notice whether anything has happened."""
        now, seen = self._clock(), self._signs()
        is_busy = self._conversation.responses.is_answering or self._conversation.turns.is_speaking
        if not self._limit_s or is_busy or seen != self._seen:
            self._seen, self._since, self._is_announced = seen, now, False
            return
        left_s = self._limit_s - (now - self._since)
        if left_s <= 0:
            self._end("idle")
        elif left_s <= min(ANNOUNCED_S, self._limit_s * ANNOUNCED_SHARE) and not self._is_announced:
            self._is_announced = True
            told = f"Nothing was said for long: this call ends in {max(1.0, left_s):.0f} s."
            self._conversation.audience.emit(ev.Notice(code="call_idle", message=told))

    def rest(self) -> None:
        """Count nothing while the session rests or waits for its turn."""
        self._since, self._is_announced = self._clock(), False

    def _signs(self) -> tuple[Any, ...]:
        conversation = self._conversation
        return conversation.turns.count, conversation.items.last_id, conversation.settings
