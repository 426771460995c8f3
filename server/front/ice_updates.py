"""ICE updates of calls: the entity tag of each one's ICE session, and updates under way. Front."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from itertools import count

from engine.ipc import protocol as p
from engine.ipc.patience import patiently
from server.control import IceRefused, IceUpdated, UpdateIce
from signaling.errors import ProtocolError
from signaling.http.trickle import IceAnswer

ANSWER_TIMEOUT_S = 5.0
MAX_WAITING = 32
"""Updates of one call at once: some clients send one for each candidate, all together."""

Send = Callable[[p.Message], bool]


class _IceSession:
    """The ICE state of a call, as far as the front needs it."""

    def __init__(self, tag: str | None) -> None:
        self.tag = tag
        """None: the front before has given it, and any is taken for it."""
        self.order = asyncio.Lock()
        self.waiting = 0
        self.n = 0
        self.answer: asyncio.Future[str] | None = None
        self.over: ProtocolError | None = None
        """Why the call has ended."""


class IceUpdates:
    """Owns the entity tags; a restart gives the call a new one (RFC 9725 section 4.3.1)."""

    def __init__(self) -> None:
        self._sessions: dict[str, _IceSession] = {}
        self._count = count(1)

    def begin(self, call_id: str) -> str:
        """Note a new call; the entity tag of its first ICE session."""
        tag = _new_tag()
        self._sessions[call_id] = _IceSession(tag)
        return tag

    def adopt(self, call_id: str) -> None:
        """Note a call of the front before."""
        self._sessions[call_id] = _IceSession(None)

    async def update(
        self, call_id: str, fragment: str, tags: frozenset[str] | None, send: Send
    ) -> IceAnswer | None:
        """Have the worker behind `send` take the fragment; our side after a restart.

        `tags` are those that the client takes for the present one, None any. Raises
        `ProtocolError`, `TimeoutError` when the worker does not answer.
        """
        session = self._sessions.get(call_id)
        if session is None:
            message = "This session has no ICE: it is carried by a WebSocket."
            raise ProtocolError(message, code="no_ice", status=409)
        if session.waiting >= MAX_WAITING:
            raise ProtocolError(
                f"{MAX_WAITING} ICE updates of this call wait.",
                code="rate_limit_exceeded",
                status=429,
                type="rate_limit_error",
            )
        session.waiting += 1
        try:
            async with session.order:
                return await self._update(call_id, session, fragment, tags, send)
        finally:
            session.waiting -= 1

    async def _update(
        self,
        call_id: str,
        session: _IceSession,
        fragment: str,
        tags: frozenset[str] | None,
        send: Send,
    ) -> IceAnswer | None:
        if session.over is not None:
            raise session.over
        if tags is not None and session.tag is not None and session.tag not in tags:
            raise ProtocolError(
                "If-Match: ICE was restarted since; its present entity tag is another.",
                code="precondition_failed",
                param="If-Match",
                status=412,
            )
        session.n = next(self._count)
        session.answer = asyncio.get_running_loop().create_future()
        try:
            if not send(UpdateIce(call_id, session.n, fragment)):
                raise TimeoutError
            ours = await patiently(session.answer, ANSWER_TIMEOUT_S)
        finally:
            session.answer = None
        if not ours:
            return None
        tag = session.tag = _new_tag()
        return IceAnswer(ours, tag)

    def answered(self, message: IceUpdated | IceRefused) -> None:
        """Apply the worker's answer; one that comes late is ignored."""
        session = self._sessions.get(message.call_id)
        if session is None or session.n != message.n:
            return
        if isinstance(message, IceUpdated):
            _settle(session.answer, message.fragment)
        else:
            error = ProtocolError(message.message, code=message.code, status=message.status)
            _settle(session.answer, error)

    def over(self, call_id: str, error: ProtocolError) -> None:
        """End the updates of a call that has ended; `error` says why."""
        session = self._sessions.pop(call_id, None)
        if session is not None:
            session.over = error
            _settle(session.answer, error)


def _settle(answer: asyncio.Future[str] | None, result: str | ProtocolError) -> None:
    if answer is None or answer.done():
        return
    if isinstance(result, str):
        answer.set_result(result)
    else:
        answer.set_exception(result)


def _new_tag() -> str:
    return f'"{secrets.token_urlsafe(9)}"'
