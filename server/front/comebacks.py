"""Calls whose clients may come back over another connection, also when their media worker died."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.front.call_table import CallTable
from server.front.front_call import FrontCall
from server.front.resume_tokens import ResumeTokens
from signaling.errors import ProtocolError

Over = Callable[[str, str], None]


class Comebacks:
    """Owns the tokens, and for how long a call without a media worker waits for its client."""

    def __init__(
        self,
        grace_s: float,
        clock: Callable[[], float],
        over: Over,
        secret: bytes = b"",
        can_come: Callable[[], bool] = lambda: True,
    ) -> None:
        """`over(call_id, reason)` ends a call for which nobody came; `secret` as that of
        `ResumeTokens`; `can_come`: there is a media worker that could answer a client."""
        self._tokens = ResumeTokens(secret)
        self._grace_s = grace_s
        self._clock = clock
        self._over = over
        self._can_come = can_come
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def begin(self, call: FrontCall) -> str:
        """From now on the call can be resumed; by this token."""
        call.is_resumable = True
        return self._tokens.of(call.call_id)

    def check(self, token: str) -> None:
        """Raise `ProtocolError` (404) for a token that was never given."""
        self._tokens.call_of(token)

    def find(self, token: str, calls: CallTable) -> FrontCall:
        """The call to which a client comes back. Raises `ProtocolError`: 404, 410, 429, 503."""
        call_id = self._tokens.call_of(token)
        call = calls.get(call_id)
        if call is None or not call.is_resumable:
            raise calls.why_closed(call_id)
        if not call.placed.done():
            raise ProtocolError(
                "resume: this session is being resumed already.",
                code="resume_pending",
                param="resume",
                status=503,
            )
        if not call.resumed.take(self._clock()):
            raise ProtocolError(
                "resume: too often; try again in a few seconds.",
                code="rate_limit_exceeded",
                param="resume",
                status=429,
                type="rate_limit_error",
            )
        return call

    def orphan(self, call: FrontCall) -> bool:
        """Let a call wait whose media worker died; return whether it can."""
        if not call.is_resumable or (call.is_setting_up and not call.was_served):
            return False
        call.is_orphan = True
        if not call.placed.done():
            told = "The connection was lost while it was being set up; try again."
            call.placed.set_exception(ProtocolError(told, code="worker_gone", status=503))
        self.drop(call.call_id)
        self._wait(call.call_id)
        return True

    def _wait(self, call_id: str) -> None:
        loop = asyncio.get_running_loop()
        self._timers[call_id] = loop.call_later(self._grace_s, self._waited, call_id)

    def _waited(self, call_id: str) -> None:
        # Who could not be answered is not late. A media worker may take long to start.
        if self._can_come():
            self._over(call_id, "worker_gone")

    def begin_anew(self) -> None:
        """There is a media worker after a time without one: all who wait have their whole time."""
        for call_id, timer in list(self._timers.items()):
            timer.cancel()
            self._wait(call_id)

    def drop(self, call_id: str) -> None:
        """Wait no more: the call is resumed, or over."""
        timer = self._timers.pop(call_id, None)
        if timer is not None:
            timer.cancel()
