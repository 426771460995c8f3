"""The end of a call as its caller hears it, also one who is still connecting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest

from engine.ipc.protocol import VERSION, Welcome
from media.clock import Ticker
from server.config import CallsConfig, Config
from server.control import EngineAddress
from server.worker import peer_transport as module
from server.worker.peer_transport import PeerTransport
from server.worker.session import CallSession
from signaling.ice import IceSettings
from signaling.settings import SessionSettings
from tests import virtual_time
from tests.waiting import until


class PaperChannel:
    is_expected = True
    is_open = False
    max_message_bytes = 0


class PaperPeer:
    """A peer that is connected, with a data channel that opens when the test says so."""

    def __init__(self) -> None:
        self.channel = PaperChannel()
        self.is_connected = self.is_reachable = True
        self.sent: list[dict[str, Any]] = []
        self.acknowledged = asyncio.Event()
        self.acknowledged.set()

    async def delivered(self, limit_s: float) -> None:
        await self.acknowledged.wait()

    def send(self, text: str) -> bool:
        if self.is_reachable:
            self.sent.append(json.loads(text))
        return self.is_reachable


@pytest.fixture
async def ticker() -> AsyncIterator[Ticker]:
    ticker = Ticker()
    yield ticker
    ticker.close()


def connect(ticker: Ticker, links: Any, config: Config, peer: PaperPeer) -> CallSession:
    session = CallSession("rtc_1", SessionSettings(), config, links)
    threads = ThreadPoolExecutor(1)
    with mock.patch.object(module, "Peer", lambda *given, **more: peer):
        PeerTransport(session, config, IceSettings(), ticker, threads, lambda: None)
    return session


def transport_of(session: CallSession) -> PeerTransport:
    transport = session.transport
    assert isinstance(transport, PeerTransport)
    return transport


@pytest.fixture
async def call(ticker: Ticker) -> tuple[CallSession, PaperPeer]:
    peer = PaperPeer()
    return connect(ticker, None, Config(), peer), peer


async def test_failure_waits_for_a_data_channel_that_is_being_opened(
    call: tuple[CallSession, PaperPeer],
) -> None:
    session, peer = call
    running = asyncio.create_task(session.run())
    session.end("engine_gone")
    # Longer than the last words are given to leave.
    await asyncio.sleep(3 * module.FLUSH_S)
    assert not running.done() and peer.sent == []
    peer.channel.is_open = True
    transport_of(session).channel_open()
    assert await running == "engine_gone"
    error, ended = peer.sent
    assert (error["type"], error["error"]["code"]) == ("error", "engine_gone")
    assert (ended["type"], ended["reason"]) == ("session.ended", "engine_gone")
    assert "call again" in ended["message"]


async def test_last_words_are_acknowledged_before_the_peer_is_closed(
    call: tuple[CallSession, PaperPeer],
) -> None:
    session, peer = call
    peer.acknowledged.clear()
    running = asyncio.create_task(session.run())
    session.end("max_duration")
    await asyncio.sleep(2 * module.FLUSH_S)
    assert peer.sent and not running.done()
    peer.acknowledged.set()
    assert await running == "max_duration"


async def test_failure_waits_for_nobody_who_is_gone(call: tuple[CallSession, PaperPeer]) -> None:
    session, peer = call
    running = asyncio.create_task(session.run())
    session.end("engine_full")
    await asyncio.sleep(0)
    peer.is_connected = peer.is_reachable = False
    transport_of(session).gone("vanished")
    assert await running == "engine_full"
    assert peer.sent == []


@pytest.mark.parametrize("reason", ["hangup", "server_shutdown", "max_duration"])
async def test_other_ends_do_not_wait(call: tuple[CallSession, PaperPeer], reason: str) -> None:
    session, peer = call
    session.end(reason)
    async with asyncio.timeout(module.TELL_WAIT_S / 2):
        await session.run()
    assert [event["type"] for event in peer.sent] == ["session.ended"]


async def test_wait_has_an_end(
    call: tuple[CallSession, PaperPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELL_WAIT_S", 0.01)
    session, peer = call
    session.end("engine_gone")
    running = asyncio.create_task(session.run())
    await until(running.done)


async def test_call_without_a_data_channel_waits_for_none(
    call: tuple[CallSession, PaperPeer],
) -> None:
    session, peer = call
    peer.channel.is_expected = False
    session.end("engine_gone")
    async with asyncio.timeout(module.TELL_WAIT_S / 2):
        await session.run()


# ---------------------------------------------------------------- the longest duration


WELCOME = Welcome(VERSION, "paper", "", "", 1, ("full_duplex",), (), (), False)


class PaperTicker:
    skipped_ticks = 0

    def subscribe(self, on_tick: object) -> Callable[[], None]:
        return lambda: None


class PaperLine:
    def send(self, message: object) -> bool:
        return True

    async def close(self) -> None:
        pass


class PaperLinks:
    """An engine that takes any call."""

    welcome = WELCOME

    async def get(self, address: EngineAddress) -> PaperLinks:
        return self

    async def open(self, *args: object, **more: object) -> PaperLine:
        return PaperLine()


@pytest.mark.parametrize(
    ("longest_s", "announced_s"), [(3600.0, 30.0), (12.0, 3.0), (0.4, 0.1)], ids=str
)
def test_the_end_by_duration_is_announced_and_the_queue_does_not_count(
    longest_s: float, announced_s: float
) -> None:
    waited_s = 5000.0

    async def talk() -> list[tuple[float, dict[str, Any]]]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        links: Any = PaperLinks()
        ticker: Any = PaperTicker()
        config = Config(calls=CallsConfig(max_duration_s=longest_s))
        peer = PaperPeer()
        peer.channel.is_open = True
        told: list[tuple[float, dict[str, Any]]] = []
        vars(peer)["send"] = lambda text: told.append((loop.time() - begun, json.loads(text)))
        session = connect(ticker, links, config, peer)
        loop.call_later(waited_s, session.slot.assign, EngineAddress("e", "ipc:///none"))
        assert await session.run() == "max_duration"
        return told

    (_, created), (announced_at, warning), (ended_at, ended) = virtual_time.run(talk)
    assert created["type"] == "session.created" and created["session"]["expires_at"]
    assert (warning["type"], warning["code"]) == ("session.warning", "call_ends_soon")
    assert (ended["type"], ended["reason"]) == ("session.ended", "max_duration")
    assert ended["message"] == "The longest duration of a call is reached."
    assert announced_at == pytest.approx(waited_s + longest_s - announced_s, abs=0.01)
    assert ended_at == pytest.approx(waited_s + longest_s, abs=0.01)


async def test_caller_of_an_engine_that_falls_silent_is_told_so(
    call: tuple[CallSession, PaperPeer],
) -> None:
    session, peer = call
    session.slot._silent(True)
    session.slot._silent(False)
    told = peer.sent
    assert [event["type"] for event in told] == ["session.warning"] * 2
    assert [event["code"] for event in told] == ["engine_silent", "engine_back"]
    assert all(event["message"] for event in told)
