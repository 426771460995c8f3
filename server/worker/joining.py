"""Connections that join a running session: they see every event and may give commands."""

from __future__ import annotations

import logging
import socket

from server.worker.live_joined import LiveJoined
from server.worker.session import CallSession
from server.worker.websocket_connection import WebSocketConnection
from signaling.socket_for import SocketFor

log = logging.getLogger(__name__)

MAX_JOINED = 8
NOT_FOUND = b"HTTP/1.1 404 Not Found", "call_not_found", "There is no such call."
NO_LIVE_SESSION = b"HTTP/1.1 404 Not Found", "session_not_found", "There is no such session."
TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests",
    "too_many_connections",
    f"{MAX_JOINED} connections have joined this call already.",
)


async def join(session: CallSession | None, sock: socket.socket, told: SocketFor) -> None:
    """Let a WebSocket join; who cannot is answered over HTTP, for the handshake is still open."""
    if session is None or session.reason is not None:
        refuse(sock, *(NO_LIVE_SESSION if told.door == "live" else NOT_FOUND))
        return
    if len(session.joined) >= MAX_JOINED:
        refuse(sock, *TOO_MANY)
        return
    if told.door == "live":
        await _join_live(session, sock, told)
        return

    def gone(reason: str) -> None:
        # The session goes on without it.
        session.audience.remove(connection.door)
        session.joined.discard(connection)

    connection = WebSocketConnection(
        session, told, port=None, has_track=session.has_track, gone=gone
    )
    session.joined.add(connection)
    await connection.open(sock)
    connection.served()
    log.info("a connection joined session %s", session.call_id)


async def _join_live(session: CallSession, sock: socket.socket, told: SocketFor) -> None:
    if session.live is None:
        refuse(sock, *NO_LIVE_SESSION)
        return

    def gone(reason: str) -> None:
        connection.leave()
        session.joined.discard(connection)

    connection = LiveJoined(session.live, told, gone)
    session.joined.add(connection)
    await connection.open(sock)
    log.info("a connection joined the Live session %s", session.call_id)


def refuse(sock: socket.socket, status: bytes, code: str, message: str) -> None:
    """Answer the handshake with an error and end the connection."""
    body = (
        f'{{"error": {{"message": "{message}", "type": "invalid_request_error", '
        f'"code": "{code}", "param": null}}}}'
    ).encode()
    head = b"\r\n".join(
        [
            status,
            b"Content-Type: application/json; charset=utf-8",
            b"Content-Length: %d" % len(body),
            b"Connection: close",
            b"",
            b"",
        ]
    )
    sock.setblocking(False)
    with sock:
        try:
            # A new connection's buffer takes so little at once.
            sock.send(head + body)
        except OSError as error:
            log.debug("a refusal was not sent: %s", error)
