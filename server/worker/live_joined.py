"""A connection that joined a Live session: it hears both sides and may give commands."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from server.worker.live_session import LiveSession
from signaling.socket_for import SocketFor
from signaling.websocket import WebSocketLink

MAX_UNSENT_BYTES = 128 * 1024
"""A second of both sides' sound; what comes while a client is further behind is left out."""


class LiveJoined:
    """Owns one WebSocket; `gone(reason)` is told when its client has left."""

    def __init__(self, live: LiveSession, told: SocketFor, gone: Callable[[str], None]) -> None:
        self.link = WebSocketLink(told.head, received=self._receive, gone=gone)
        self._live = live
        self._wants_audio = told.wants_audio
        self._is_attached = False

    async def open(self, sock: socket.socket) -> None:
        """Speak on this socket from now on, and tell how things stand."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self.link, sock)
        self._connection = self._live.connect(
            self.link.send,
            "sideband",
            has_room=lambda: self.link.unsent_bytes < MAX_UNSENT_BYTES,
            wants_audio=self._wants_audio,
        )
        self._is_attached = True

    def served(self) -> None:
        """Told by the door, as everything is."""

    def leave(self) -> None:
        if self._is_attached:
            self._live.door.detach(self._connection)

    async def close(self) -> None:
        """Say goodbye."""
        self.leave()
        await self.link.close(self._live.door.close_code)

    def _receive(self, text: str) -> None:
        if self._is_attached:
            self._connection.receive(text)
