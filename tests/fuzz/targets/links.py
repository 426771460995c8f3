"""ZeroMQ frames: what a process that can reach the sockets may send to an engine and to the front,
and what a media worker does with what an engine says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import zmq

from engine.ipc.protocol import VERSION, FromEngine, Hello, ToEngine
from engine.ipc.transport import UNREADABLE, encode
from server.control import Inbound
from tests.fuzz.mutators.raw import mutate_bytes
from tests.fuzz.mutators.structures import mutate_value
from tests.fuzz.samples import messages
from tests.fuzz.target import Target

TO_ENGINE, TO_FRONT, FROM_ENGINE = b"e", b"f", b"w"
_UNIONS: dict[bytes, Any] = {TO_ENGINE: ToEngine, TO_FRONT: Inbound, FROM_ENGINE: FromEngine}
_DECODERS: dict[bytes, msgspec.msgpack.Decoder[Any]] = {
    to: msgspec.msgpack.Decoder(union) for to, union in _UNIONS.items()
}
NAME = "fuzz"


class Links(Target):
    """One letter for the direction, then a frame."""

    name = "zmq"

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._sockets: dict[bytes, zmq.Socket[bytes]] = {}

    def seeds(self) -> dict[str, bytes]:
        """Every message of the links, and what was found."""
        made = {
            f"{to.decode()}-{name}": to + frame
            for to, union in _UNIONS.items()
            for name, frame in messages(union).items()
        }
        return made | super().seeds()

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        to, frame = parent[:1], parent[1:]
        if rng.random() < 0.25:
            return to + mutate_bytes(rng, frame, other[1:])
        try:
            value = msgspec.msgpack.decode(frame)
            more = msgspec.msgpack.decode(other[1:])
            return to + msgspec.msgpack.encode(mutate_value(rng, value, more))
        except (*UNREADABLE, ValueError, OverflowError, TypeError, UnicodeEncodeError):
            return to + mutate_bytes(rng, frame, other[1:])

    def signature(self, case: bytes) -> str:
        to, frame = case[:1], case[1:]
        try:
            message = _DECODERS[to].decode(frame)
        except UNREADABLE as error:
            return re.sub(r"\d+|'.*'", "#", str(error))
        if to == FROM_ENGINE:
            return _heard(message)
        return type(message).__name__

    async def open(self, url: str, folder: Path) -> None:
        for to, path in _addresses(folder).items():
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(f"ipc://{path}")
            self._sockets[to] = socket

    async def try_case(self, case: bytes) -> str:
        socket = self._sockets.get(case[:1])
        if socket is not None:
            # Whoever is refused has to say hello again.
            socket.send(encode(Hello(VERSION, NAME)), zmq.NOBLOCK)
            socket.send(case[1:], zmq.NOBLOCK)
            await asyncio.sleep(0.002)
        return ""

    async def settle(self) -> str:
        for socket in self._sockets.values():
            try:
                while True:
                    socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                continue
        return ""

    async def close(self) -> None:
        for socket in self._sockets.values():
            socket.close()
        self._sockets.clear()


def _addresses(folder: Path) -> dict[bytes, Path]:
    """Where the front and the engine's newest life listen."""
    links = next(folder.glob("omnicall-*"))
    lives = links.glob("engine-0.*")
    newest = max(lives, key=lambda path: int(path.suffix.removeprefix(".")))
    return {TO_FRONT: links / "control", TO_ENGINE: newest}


def _heard(message: Any) -> str:
    """What a conversation makes of a message of its engine."""
    from tests.server.worker.talk import Talk

    talk = Talk()
    talk.hear(message)
    talk.play(40)
    return f"{type(message).__name__} {talk.types}"
