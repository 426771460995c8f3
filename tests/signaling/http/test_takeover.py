"""Connections under TLS that another process goes on speaking on: nothing of it is lost."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from pytest import MonkeyPatch

from signaling.http.takeover import take_over
from tests.waiting import PATIENCE_S

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


class Client(asyncio.Transport):
    """The client's side of a connection under TLS; keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"ssl_object": object(), "socket": object()})
        self.written = b""
        self.protocol: Any = asyncio.Protocol()

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


class Request:
    def __init__(self) -> None:
        self.transport = Client()


async def test_bytes_that_come_before_the_relay_is_set_up_are_passed_on(
    monkeypatch: MonkeyPatch,
) -> None:
    """uvloop may read from a socket before who connects it goes on."""
    loop = asyncio.get_running_loop()
    connect = loop.connect_accepted_socket
    kept: list[socket.socket] = []

    async def reads_first(factory: Callable[[], Any], sock: socket.socket) -> Any:
        pair = await connect(factory, sock)
        await asyncio.sleep(0.02)
        return pair

    def hand(descriptor: int) -> bool:
        kept.append(socket.socket(fileno=os.dup(descriptor)))
        kept[0].sendall(HEAD)
        return True

    monkeypatch.setattr(loop, "connect_accepted_socket", reads_first)
    request = Request()
    relaying = asyncio.create_task(take_over(cast(web.Request, request), hand))
    async with asyncio.timeout(PATIENCE_S):
        while not request.transport.written:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
            assert not relaying.done() or relaying.exception() is None
        kept[0].close()
        await relaying
    assert request.transport.written == HEAD
