"""A relayed address is got from its server, whose packets pass a check before aioice's parser."""

import asyncio
import struct
from typing import Any

import aioice.stun
import pytest
from aioice.stun import Class, Message

from signaling.ice_servers import parse_url
from signaling.relay import connect_relay
from tests.waiting import PATIENCE_S, until

PEER = ("192.0.2.1", 5000)
RELAYED = ("198.51.100.7", 40_000)


class Server(asyncio.DatagramProtocol):
    """Grants every request, as a TURN server without credentials."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.client = addr
        if data[0] & 0xC0 == 0x40:
            return
        request = aioice.stun.parse_message(data)
        answer = Message(request.message_method, Class.RESPONSE, request.transaction_id)
        answer.attributes["LIFETIME"] = 600
        answer.attributes["XOR-MAPPED-ADDRESS"] = addr[:2]
        answer.attributes["XOR-RELAYED-ADDRESS"] = RELAYED
        self.transport.sendto(bytes(answer), addr)


class Taken(asyncio.DatagramProtocol):
    """Stands for the protocol behind the door."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, tuple[Any, ...]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.datagrams.append((data, addr))


@pytest.mark.loopback
async def test_relayed_data_arrives_and_malformed_data_does_not_raise() -> None:
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    _, server = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    host, port = server.transport.get_extra_info("sockname")
    url = parse_url(f"turn:{host}:{port}")
    async with asyncio.timeout(PATIENCE_S):
        protocol = await connect_relay(url, ("user", "password"), Taken)
        assert protocol.transport.get_extra_info("sockname") == RELAYED
        # Sending binds channel 0x4000 to the peer.
        protocol.transport.sendto(b"out", PEER)
        inner = protocol.transport._TurnTransport__inner_protocol
        await until(lambda: bool(inner.channel_to_peer))
        short = struct.pack("!HHI", 0x0017, 4, 0x2112A442) + bytes(12) + struct.pack("!HH", 0x24, 0)
        for datagram in (b"", b"\x40", short, bytes(40), b"\x16" * 60):
            server.transport.sendto(datagram, server.client)
        server.transport.sendto(struct.pack("!HH", 0x4000, 2) + b"in", server.client)
        await until(lambda: bool(protocol.datagrams))
    assert protocol.datagrams == [(b"in", PEER)]
    assert not unhandled
    inner.transport.close()
    server.transport.close()
    inner.refresh_task.cancel()
