"""What the keeper and the front say to each other: one packet of a Unix socket for each message."""

from __future__ import annotations

import socket
from typing import Any

import msgspec
from msgspec import Struct

MAX_BYTES = 64 * 1024
MAX_FILES = 4


class StartChild(Struct, tag=True, frozen=True):
    """With it come its stdin, then what it is passed, then what is kept for the next front."""

    name: str
    arguments: tuple[str, ...]
    """Followed by the keeper's pid and the numbers of the descriptors that are passed."""
    note: bytes
    """For the next front."""
    passed: int = 0
    """How many descriptors are."""


class KillChild(Struct, tag=True, frozen=True):
    name: str
    pid: int


class NoteChild(Struct, tag=True, frozen=True):
    """Replaces the note about a child."""

    name: str
    note: bytes


class Remember(Struct, tag=True, frozen=True):
    """For the next front; with it may come a descriptor."""

    name: str
    data: bytes


class Forget(Struct, tag=True, frozen=True):
    names: tuple[str, ...]


class FrontServes(Struct, tag=True, frozen=True):
    """The start has succeeded: a front that dies from now on is started again."""


class ChildStarted(Struct, tag=True, frozen=True):
    name: str
    pid: int
    """0: it could not be."""
    reason: str = ""


class ChildExited(Struct, tag=True, frozen=True):
    name: str
    pid: int
    code: int
    """As that of `subprocess.Popen`."""


ToKeeper = StartChild | KillChild | NoteChild | Remember | Forget | FrontServes
FromKeeper = ChildStarted | ChildExited


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a way that keeps messages whole."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def put(way: socket.socket, message: Struct, files: tuple[int, ...] = ()) -> None:
    """Send a message with copies of descriptors. Raises OSError."""
    packet = msgspec.msgpack.encode(message)
    if len(packet) > MAX_BYTES:
        raise OSError(f"a message of {len(packet)} bytes")
    socket.send_fds(way, [packet], list(files))


def take(way: socket.socket, kinds: Any) -> tuple[Any, list[int]] | None:
    """The next message with its descriptors, which are the caller's to close; None: none is there.

    Raises EOFError when the other side is gone.
    """
    try:
        packet, files, _, _ = socket.recv_fds(way, MAX_BYTES, MAX_FILES)
    except BlockingIOError:
        return None
    except ConnectionError:
        raise EOFError from None
    if not packet:
        raise EOFError
    return msgspec.msgpack.decode(packet, type=kinds), files
