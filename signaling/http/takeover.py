"""Give the connection of a request to another process, which goes on speaking on it. Front."""

import asyncio
import os
import socket
from collections.abc import Callable

from aiohttp import web

from signaling.errors import ProtocolError

Hand = Callable[[int], bool]
"""Hands a copy of a descriptor over; False if that is impossible."""


class HandedOver(web.Response):
    """Stands for a response that another process gives."""

    async def prepare(self, request: web.BaseRequest) -> None:
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        return


async def take_over(request: web.Request, hand: Hand) -> web.Response:
    """Hand the connection over; without TLS the socket itself, so that nothing is left to do here.

    Under TLS, whose state is in this process, bytes are relayed until either side ends. Nothing of
    the request is answered here. Raises ProtocolError 503 when it cannot be handed over.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    transport.pause_reading()
    sock = transport.get_extra_info("socket")
    if transport.get_extra_info("ssl_object") is None and sock is not None:
        copy = os.dup(sock.fileno())
        try:
            is_handed = hand(copy)
        finally:
            os.close(copy)
    else:
        is_handed = await _relay(transport, hand)
    if not is_handed:
        transport.resume_reading()
        raise ProtocolError(
            "The server is overloaded; try again.",
            code="server_busy",
            type="server_error",
            status=503,
        )
    return HandedOver()


async def _relay(transport: asyncio.Transport, hand: Hand) -> bool:
    """Pass bytes between the client and the other process until one of them is gone."""
    ours, theirs = socket.socketpair()
    try:
        is_handed = hand(theirs.fileno())
    finally:
        theirs.close()
    if not is_handed:
        ours.close()
        return False
    loop = asyncio.get_running_loop()
    # Whoever answers may have begun before this returns, so the way on is known by then.
    protocol = _Inner(transport)
    inner, _ = await loop.connect_accepted_socket(lambda: protocol, ours)
    outer = _Outer(inner, transport.get_protocol())
    transport.set_protocol(outer)
    transport.resume_reading()
    await asyncio.wait({outer.lost, protocol.lost}, return_when=asyncio.FIRST_COMPLETED)
    inner.close()
    transport.close()
    return True


class _Side(asyncio.Protocol):
    """Write to one side what the other sends, no faster than it is taken."""

    def __init__(self, other: asyncio.Transport) -> None:
        self._other = other
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        # uvloop raises at a transport that has failed, of which `connection_lost` tells later.
        if not self._other.is_closing():
            self._other.write(data)

    def pause_writing(self) -> None:
        self._other.pause_reading()

    def resume_writing(self) -> None:
        if not self._other.is_closing():
            self._other.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class _Inner(_Side):
    """The side of the other process."""


class _Outer(_Side):
    """The client's side; who owned the connection before learns of its end."""

    def __init__(self, other: asyncio.Transport, before: asyncio.BaseProtocol) -> None:
        super().__init__(other)
        self._before = before

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._before.connection_lost(error)
