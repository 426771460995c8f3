"""A session whose client cannot be reached: it rests, and ends if nobody comes back in time."""

from __future__ import annotations

import time
from collections.abc import Callable

from server.worker.pause import Pause

LEFT_S = 8.0
"""For so long a client is awaited that closed its connection without hanging up: a page that is
reloaded does so."""
LEFT_HURRIED_S = 2.0
"""The same for its slot while others wait for one: most pages that close do not come back."""


class Absence:
    """Owns whether the client is away; call `look` about once a second.

    While it is, the engine hears nothing and nothing is played. Its slot is kept, unless others
    wait for one: then for `hurried_s` only, and who comes back later queues behind them.
    """

    def __init__(
        self,
        grace_s: float,
        hurried_s: float,
        pause: Pause,
        *,
        give_up: Callable[[str], None],
        told: Callable[[float | None], None] = lambda ends_in_s: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`give_up(reason)` ends the session; `told` gets for how long the client is awaited, None
        when it is back.
        """
        self._grace_s = grace_s
        self._hurried_s = hurried_s
        self._pause = pause
        self._give_up = give_up
        self._told = told
        self._clock = clock
        self._until = 0.0
        self._slot_until = 0.0
        """Where others wait for it."""
        self._reason = ""
        self._is_hurried = False
        self.is_on = False

    def begin(self, reason: str, most_s: float | None = None) -> None:
        """The client is away, for `reason`; `most_s`: awaited no longer than this from now on."""
        now = self._clock()
        if not self.is_on:
            self.is_on, self._is_hurried = True, False
            self._until, self._slot_until = now + self._grace_s, now + self._hurried_s
        self._reason = reason
        if most_s is not None:
            self._until = min(self._until, now + most_s)
            self._slot_until = min(self._slot_until, now + LEFT_HURRIED_S)
        self._told(max(0.0, self._until - now))

    def end(self) -> None:
        """The client is back."""
        if self.is_on:
            self.is_on = False
            self._told(None)
            self._pause.need_slot()

    def hurry(self) -> None:
        """Others wait for a slot."""
        self._is_hurried = True
        self.look()

    @property
    def left_s(self) -> float | None:
        """For how long the client is awaited; None while it is there."""
        return max(0.0, self._until - self._clock()) if self.is_on else None

    def look(self) -> None:
        """Notice what time it is."""
        if not self.is_on:
            return
        now = self._clock()
        if now >= self._until:
            self._give_up(self._reason)
        elif self._is_hurried and now >= self._slot_until:
            self._pause.give_up_slot()
