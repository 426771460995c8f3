"""Bytes on a WebSocket whose handshake is done: frames, and what only looks like frames."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.parse
from pathlib import Path
from random import Random

from websockets.frames import Frame, Opcode
from websockets.utils import apply_mask

from tests.fuzz.mutators.raw import EDGE_INTEGERS, mutate_bytes
from tests.fuzz.target import Target

HANDSHAKE = (
    "GET /v1/realtime?model=omnicall HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MASK = bytes((0x5A, 0x00, 0xFF, 0x33))
LISTEN_S = 0.05
"""For so long the server may answer; what it does to others shows later."""
ANSWER_S = 20.0
EVENT = json.dumps({"type": "conversation.item.retrieve", "item_id": "no-such"}).encode()


def _frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    """A frame of a client; its mask is the same in each campaign."""
    head = bytearray(Frame(opcode, data, fin).serialize(mask=False))
    head = head[: len(head) - len(data)]
    head[1] |= 0x80
    return bytes(head) + MASK + apply_mask(data, MASK)


def _examples() -> dict[str, bytes]:
    close = (1000).to_bytes(2, "big") + b"bye"
    parts = [EVENT[:9], EVENT[9:20], EVENT[20:]]
    return {
        "text": _frame(Opcode.TEXT, EVENT),
        "binary": _frame(Opcode.BINARY, EVENT),
        "three": _frame(Opcode.TEXT, EVENT) * 3,
        "fragments": _frame(Opcode.TEXT, parts[0], fin=False)
        + _frame(Opcode.CONT, parts[1], fin=False)
        + _frame(Opcode.PING, b"between")
        + _frame(Opcode.CONT, parts[2]),
        "unfinished": _frame(Opcode.TEXT, EVENT, fin=False),
        "empty-fragments": _frame(Opcode.TEXT, b"", fin=False)
        + _frame(Opcode.CONT, b"", fin=False) * 40,
        "ping": _frame(Opcode.PING, b"x" * 125) + _frame(Opcode.PONG, b""),
        "close": _frame(Opcode.CLOSE, close) + _frame(Opcode.TEXT, EVENT),
        "long": _frame(Opcode.TEXT, b" " * 70_000 + EVENT),
        "unmasked": Frame(Opcode.TEXT, EVENT).serialize(mask=False),
        "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    }


def _mutate_head(rng: Random, data: bytes) -> bytes:
    """Change what stands before the payload: final and reserved bits, opcode, mask, length."""
    head = bytearray(data)
    match rng.randrange(4):
        case 0:
            head[0] ^= 1 << rng.randrange(4, 8)
        case 1:
            head[0] = head[0] & 0xF0 | rng.randrange(16)
        case 2:
            head[1] ^= 0x80
        case _:
            size = rng.choice((126, 127))
            told = rng.choice(EDGE_INTEGERS) % (1 << (16 if size == 126 else 64))
            head[1:2] = bytes([0x80 | size]) + told.to_bytes(2 if size == 126 else 8, "big")
    return bytes(head)


class Frames(Target):
    """The bytes after the handshake, each case on a connection of its own."""

    name = "ws-frames"
    concurrency = 4

    def __init__(self) -> None:
        self._host, self._port = "", 0

    def seeds(self) -> dict[str, bytes]:
        return _examples() | super().seeds()

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        if len(parent) > 2 and rng.random() < 0.5:
            changed = _mutate_head(rng, parent)
            return changed + other if rng.random() < 0.3 else changed
        return mutate_bytes(rng, parent, other)

    async def open(self, url: str, folder: Path) -> None:
        parts = urllib.parse.urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0

    async def try_case(self, case: bytes) -> str:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(HANDSHAKE.format(port=self._port).encode())
            async with asyncio.timeout(ANSWER_S):
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 101"):
                    return f"refused: {head[:80]!r}"
                # The first event tells that it is served.
                await reader.readexactly(2)
            with contextlib.suppress(ConnectionError, TimeoutError):
                writer.write(case)
                async with asyncio.timeout(LISTEN_S):
                    while await reader.read(65_536):
                        pass
        finally:
            writer.close()
        return ""
