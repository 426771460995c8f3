"""The end of a call as its caller hears it, also one who is still connecting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from media.clock import Ticker
from server.config import Config
from server.control import PlaceCall
from server.worker import session as module
from server.worker.session import Session
from signaling.ice import IceSettings
from signaling.settings import SessionSettings
from tests.waiting import until


class PaperChannel:
    is_expected = True
    is_open = False


class PaperPeer:
    """A peer that is connected, with a data channel that opens when the test says so."""

    def __init__(self) -> None:
        self.channel = PaperChannel()
        self.is_connected = True
        self.sent: list[dict[str, Any]] = []

    def send(self, text: str) -> bool:
        self.sent.append(json.loads(text))
        return True


@pytest.fixture
async def ticker() -> AsyncIterator[Ticker]:
    ticker = Ticker()
    yield ticker
    ticker.close()


@pytest.fixture
async def call(ticker: Ticker) -> tuple[Session, PaperPeer]:
    place = PlaceCall("rtc_1", "v=0\r\n", SessionSettings(), "192.0.2.1")
    links: Any = None
    session = Session(
        place, Config(), IceSettings(), links, ticker, ThreadPoolExecutor(1), lambda: None
    )
    peer = PaperPeer()
    vars(session)["_peer"] = peer
    return session, peer


async def test_failure_waits_for_a_data_channel_that_is_being_opened(
    call: tuple[Session, PaperPeer],
) -> None:
    session, peer = call
    running = asyncio.create_task(session.run())
    session.end("engine_gone")
    # Longer than the last words are given to leave.
    await asyncio.sleep(3 * module.FLUSH_S)
    assert not running.done() and peer.sent == []
    peer.channel.is_open = True
    session.channel_open()
    assert await running == "engine_gone"
    error, ended = peer.sent
    assert (error["type"], error["error"]["code"]) == ("error", "engine_gone")
    assert (ended["type"], ended["reason"]) == ("session.ended", "engine_gone")
    assert "call again" in ended["message"]


async def test_failure_waits_for_nobody_who_is_gone(call: tuple[Session, PaperPeer]) -> None:
    session, peer = call
    running = asyncio.create_task(session.run())
    session.end("engine_full")
    await asyncio.sleep(0)
    peer.is_connected = False
    session.gone("vanished")
    assert await running == "engine_full"
    assert peer.sent == []


@pytest.mark.parametrize("reason", ["hangup", "server_shutdown", "max_duration"])
async def test_other_ends_do_not_wait(call: tuple[Session, PaperPeer], reason: str) -> None:
    session, peer = call
    session.end(reason)
    async with asyncio.timeout(module.TELL_WAIT_S / 2):
        await session.run()
    assert [event["type"] for event in peer.sent] == ["session.ended"]


async def test_wait_has_an_end(
    call: tuple[Session, PaperPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELL_WAIT_S", 0.01)
    session, peer = call
    session.end("engine_gone")
    running = asyncio.create_task(session.run())
    await until(running.done)


async def test_call_without_a_data_channel_waits_for_none(
    call: tuple[Session, PaperPeer],
) -> None:
    session, peer = call
    peer.channel.is_expected = False
    session.end("engine_gone")
    async with asyncio.timeout(module.TELL_WAIT_S / 2):
        await session.run()
