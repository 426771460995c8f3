"""A network between two ends of UDP: it drops packets, or shows one end at another address."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import repeat
from typing import Any

Address = tuple[str, int]
HEADERS_BYTES = 28
"""Of IPv4 and UDP."""


class _End(asyncio.DatagramProtocol):
    """A socket towards the server, in the place of one client."""

    def __init__(self, relay: Relay, client: Address) -> None:
        self._relay = relay
        self._client = client
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.sendto(data)

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._relay.back(self, self._client, data)

    def error_received(self, error: Exception) -> None:
        return


class Narrows:
    """A way of so many bit/s with a queue before it, which drops what finds it full."""

    def __init__(self, bitrate: float, queue_s: float = 0.3) -> None:
        self.bitrate = bitrate
        self.dropped = 0
        self._queue_s = queue_s
        self._free_s = 0.0

    def wait_s(self, size: int) -> float | None:
        """How long a packet that comes now is on its way; None if it is lost."""
        now = asyncio.get_running_loop().time()
        queued_s = max(0.0, self._free_s - now)
        if queued_s > self._queue_s:
            self.dropped += 1
            return None
        self._free_s = now + queued_s + (size + HEADERS_BYTES) * 8 / self.bitrate
        return self._free_s - now


class Relay(asyncio.DatagramProtocol):
    """Passes between clients, which send to `port`, and one server while `passes` is set."""

    def __init__(self) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self.lost_up: Iterator[bool] = repeat(False)
        """Of each packet to the server, whether it is lost;"""
        self.lost_down: Iterator[bool] = repeat(False)
        """and of each packet to a client."""
        self.narrows: Narrows | None = None
        """On the way to the server."""
        self.dropped = 0
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._server: Address | None = None
        self._ends: dict[Address, _End] = {}
        self._opening: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(cls) -> Relay:
        loop = asyncio.get_running_loop()
        _, relay = await loop.create_datagram_endpoint(cls, local_addr=("127.0.0.1", 0))
        return relay

    async def lead_to(self, host: str, port: int) -> None:
        """From now on this is the server."""
        if self._server != (host, port):
            self._server = (host, port)
            self.move()

    def move(self) -> None:
        """Let the clients appear at other addresses; what is sent to the old ones is lost."""
        for end in self._ends.values():
            if end.transport is not None:
                end.transport.close()
        self._ends.clear()

    def close(self) -> None:
        self.move()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: Any) -> None:
        if not self.passes.is_set() or self._server is None or next(self.lost_up):
            self.dropped += 1
            return
        end = self._ends.get(address)
        if end is None:
            end = self._ends[address] = _End(self, address)
            loop = asyncio.get_running_loop()
            opening = loop.create_task(
                loop.create_datagram_endpoint(lambda: end, remote_addr=self._server)
            )
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
        elif self.narrows is None:
            end.send(data)
        elif (wait_s := self.narrows.wait_s(len(data))) is not None:
            asyncio.get_running_loop().call_later(wait_s, end.send, data)

    def back(self, end: _End, client: Address, data: bytes) -> None:
        is_old = self._ends.get(client) is not end
        if not self.passes.is_set() or is_old or next(self.lost_down):
            self.dropped += 1
        elif self._transport is not None:
            self._transport.sendto(data, client)
