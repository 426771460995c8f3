"""Sockets on their way from the front to a media worker: descriptors by SCM_RIGHTS.

The front accepts and checks a WebSocket; the worker speaks on it, so that the front does nothing
for its messages (unix(7), "Ancillary messages").
"""

from __future__ import annotations

import socket

import msgspec

from signaling.socket_for import SocketFor

MAX_BYTES = 64 * 1024


def send(way: socket.socket, told: SocketFor, descriptor: int) -> bool:
    """Hand a copy of a descriptor over; False if the other side is gone or behind."""
    try:
        socket.send_fds(way, [msgspec.msgpack.encode(told)], [descriptor])
    except OSError:
        return False
    return True


def receive(way: socket.socket) -> tuple[SocketFor, socket.socket] | None:
    """The next socket, which is the caller's to close; None if there is none yet.

    Raises EOFError when the other side is gone.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(way, MAX_BYTES, 1)
    except BlockingIOError:
        return None
    if not data:
        raise EOFError
    return msgspec.msgpack.decode(data, type=SocketFor), socket.socket(fileno=descriptors[0])
