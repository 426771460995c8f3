"""A relayed candidate (TURN, RFC 8656) whose server cannot make aioice's parser raise."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import aioice.turn
from aioice.turn import TurnTransport

from signaling import stun
from signaling.ice_servers import ServerUrl

LIFETIME_S = 600
CHANNEL_REFRESH_S = 500


class _Checked:
    """Drop what is neither channel data nor a well-formed STUN message."""

    def datagram_received(self, data: bytes | str, addr: tuple[str, int]) -> None:
        assert isinstance(data, bytes)
        is_channel_data = len(data) >= 4 and data[0] & 0xC0 == 0x40
        if is_channel_data or stun.read(data) is not None:
            super().datagram_received(data, addr)  # type: ignore[misc]


class _TurnUdp(_Checked, aioice.turn.TurnClientUdpProtocol):
    """The end of a UDP socket to the TURN server."""


class _TurnTcp(_Checked, aioice.turn.TurnClientTcpProtocol):
    """The end of a TCP or TLS connection to the TURN server."""


async def connect_relay(
    server: ServerUrl, credentials: tuple[str, str], make_protocol: Callable[[], Any]
) -> Any:
    """Allocate an address at a TURN server; return the protocol that serves it.

    What is relayed goes through that protocol as from a socket of our own. Raises OSError,
    ssl.SSLError, or aioice.stun.TransactionError.
    """
    loop = asyncio.get_running_loop()
    address = (server.host, server.port)

    def client(kind: type[Any]) -> Callable[[], Any]:
        return lambda: kind(address, *credentials, LIFETIME_S, CHANNEL_REFRESH_S)

    inner: Any
    if server.is_tcp:
        context = ssl.create_default_context() if server.is_tls else None
        _, inner = await loop.create_connection(client(_TurnTcp), *address, ssl=context)
    else:
        _, inner = await loop.create_datagram_endpoint(client(_TurnUdp), remote_addr=address)
    protocol = make_protocol()
    try:
        await TurnTransport(inner)._connect(protocol)
    except BaseException:
        inner.transport.close()
        raise
    return protocol
