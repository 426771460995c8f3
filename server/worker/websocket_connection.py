"""A WebSocket to a session: the session's own, or one that joined it. Media worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from server.endings import FAILURES
from server.worker.doors import PROTOCOLS
from server.worker.session import CallSession
from signaling.session.core import SoundPort
from signaling.socket_for import SocketFor
from signaling.websocket import WebSocketLink

GOING_AWAY = {"engine_full": 1013, "server_shutdown": 1012} | dict.fromkeys(
    ("too_slow", "flooded", "bad_input", "unsupported", "not_started"), 1008
)
NORMAL = 1000
INTERNAL = 1011


class WebSocketConnection:
    """Owns the link and the door of one WebSocket."""

    def __init__(
        self,
        session: CallSession,
        told: SocketFor,
        *,
        port: SoundPort | None,
        has_track: bool,
        gone: Callable[[str], None],
    ) -> None:
        """`port`: how sound goes with its messages; None where it does not."""
        self.link = WebSocketLink(told.head, received=self._receive, gone=gone)
        self.door = PROTOCOLS[told.door].make(
            session.commands,
            self.link.send,
            port=port,
            has_track=has_track,
            tells_extensions=told.tells_extensions,
        )
        self._session = session
        session.audience.add(self.door)

    async def open(self, sock: socket.socket) -> None:
        """Speak on this socket from now on, and tell how things stand."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self.link, sock)

    def served(self) -> None:
        if self.link.is_open:
            self._session.greet(self.door)

    async def close(self) -> None:
        """Say goodbye with a code that tells why."""
        self._session.audience.remove(self.door)
        reason = self._session.reason or "hangup"
        code = GOING_AWAY.get(reason, INTERNAL if reason in FAILURES else NORMAL)
        await self.link.close(code, reason)

    def _receive(self, text: str) -> None:
        self.door.receive(text)
