"""A network between two ends of UDP: it drops all packets, or shows one end at another address."""

from __future__ import annotations

import asyncio
from typing import Any

Address = tuple[str, int]


class _End(asyncio.DatagramProtocol):
    """A socket towards the server, in the place of one client."""

    def __init__(self, relay: Relay, client: Address) -> None:
        self._relay = relay
        self._client = client
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._relay.back(self, self._client, data)

    def error_received(self, error: Exception) -> None:
        return


class Relay(asyncio.DatagramProtocol):
    """Passes between clients, which send to `port`, and one server while `passes` is set."""

    def __init__(self) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
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
        if not self.passes.is_set() or self._server is None:
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
        elif end.transport is not None:
            end.transport.sendto(data)

    def back(self, end: _End, client: Address, data: bytes) -> None:
        if not self.passes.is_set() or self._ends.get(client) is not end:
            self.dropped += 1
        elif self._transport is not None:
            self._transport.sendto(data, client)
