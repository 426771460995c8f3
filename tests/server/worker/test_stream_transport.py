"""A session's own WebSocket in a media worker: who does not begin does not keep the place."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from engine.ipc.patience import TICK_S
from media.clock import Ticker
from server.config import Config
from server.engine_links import EngineLinks
from server.worker.session import CallSession
from server.worker.stream_transport import StreamTransport
from signaling.settings import SessionSettings
from signaling.socket_for import SocketFor
from tests.waiting import Clock

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@pytest.mark.parametrize(
    ("door", "sends", "reason"),
    [
        ("openbmb", "", "not_started"),
        ("openbmb", '{"type": "session.init", "payload": {}}', None),
        ("realtime", "", None),
    ],
)
async def test_a_place_is_kept_for_who_begins(door: str, sends: str, reason: str | None) -> None:
    clock = Clock()
    session = CallSession("rtc_1", SessionSettings(), Config(), cast(EngineLinks, None))
    with ThreadPoolExecutor(1) as threads:
        stream = StreamTransport(
            session, Config(), Ticker(), threads, lambda: None, door, clock=clock
        )
        ours, theirs = socket.socketpair()
        with ours:
            await stream.accept(theirs, SocketFor("rtc_1", HEAD, door=door))
            assert stream._connection is not None
            # However long it waited in the queue.
            clock.now += 300
            stream.served()
            if sends:
                stream._connection.door.receive(sends)
            for _ in range(round(29 / TICK_S)):
                clock.now += TICK_S
                await stream.tend()
            assert session.reason is None
            for _ in range(round(2 / TICK_S)):
                clock.now += TICK_S
                await stream.tend()
            assert session.reason == reason
        # Nobody is there whose goodbye would be awaited.
        await stream.close()
