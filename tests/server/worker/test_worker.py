"""A media worker, a real process: calls from the offer to their end, without a connected peer.

Guarded: offers answered or refused by name; the front hears of every end; an engine that is full,
gone or speaks garbage ends its calls and not the worker; hang-up gives the slot back; waiting calls
are served when assigned. Calls with sound are in test_live_faults and in tests/browser.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from engine.host import Host
from engine.ipc.protocol import Hello, Ping, Pong, Refused
from engine.ipc.supervision import Ready, Shutdown
from engine.ipc.transport import Listener, encode
from server.config import CallsConfig, Config, LogConfig, MediaConfig
from server.control import (
    AssignEngine,
    CallConnected,
    CallEnded,
    CallPlaced,
    CallRefused,
    EngineAddress,
    EngineDown,
    GetStats,
    HangUp,
    Inbound,
    PlaceCall,
    QueuePosition,
    ResumeCall,
    SlotWanted,
    WorkerConfig,
    WorkerStats,
    encode_worker,
)
from server.worker.engine_slot import MAX_LOST_ENGINES
from server.worker.worker import ice_settings
from signaling.settings import SessionSettings
from tests import ROOT
from tests.engine.fakes import FakeEngine, item
from tests.engine.ipc.raw_peer import router
from tests.waiting import PATIENCE_S, until

START = "from server.worker.worker import main; main()"
BROKEN = """
from server.worker import worker
from server.worker.session import CallSession
async def fail(session):
    raise RuntimeError("a bug")
CallSession.close = CallSession.stats = fail
worker.main()
"""
"""A media worker in which the end of each call fails, and the figures of each."""


class Desk:
    """What the front is to a media worker."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.messages: list[Any] = []
        self.peer = b""
        self.engine = FakeEngine()
        self.host: Host | None = None
        self.address = EngineAddress("engine-0", f"ipc://{folder}/engine")
        self._config = config
        self._listener: Listener[Any] = Listener(
            f"ipc://{folder}/control", Inbound, on_message=self._hear, on_peer=self._meet
        )
        self._process: asyncio.subprocess.Process | None = None

    def _hear(self, peer: bytes, message: Any) -> None:
        self.messages.append(message)

    def _meet(self, peer: bytes, hello: Hello) -> None:
        self.peer = peer

    async def start(self, program: str = START) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdin is not None
        whole = msgspec.json.encode(self._config)
        told = WorkerConfig("worker-0#1", self._listener.endpoint, whole)
        self._process.stdin.write(encode_worker(told) + b"\n")
        await until(lambda: self.said(Ready))

    def serve(self, slots: int = 2) -> Host:
        self.host = Host(self.engine, self.address.endpoint, slots)
        return self.host

    def said(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    def tell(self, message: Any) -> None:
        assert self._listener.send(self.peer, message)

    async def place(
        self, call_id: str, sdp: str | None = None, *, engine: EngineAddress | None = None
    ) -> None:
        """Have an offer answered; with `engine` as if its peer were connected then."""
        self.tell(PlaceCall(call_id, sdp or await offer(), SessionSettings(), "127.0.0.1"))
        if engine is not None:
            await until(lambda: any(m.call_id == call_id for m in self.said(CallPlaced)))
            self.tell(AssignEngine(call_id, engine))

    async def ended(self, call_id: str) -> str:
        """How the call ended, once it has."""
        # A full engine is asked for ten seconds.
        await until(lambda: any(end.call_id == call_id for end in self.said(CallEnded)))
        [end] = [end for end in self.said(CallEnded) if end.call_id == call_id]
        return str(end.reason)

    async def lives(self) -> bool:
        self.tell(Ping(77))
        await until(lambda: Pong(77) in self.messages)
        return True

    async def exit_code(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(PATIENCE_S):
            return await self._process.wait()

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self.host is not None:
            await self.host.close()
        self._listener.close()


async def offer() -> str:
    """Of a client with a microphone and a data channel."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio")
    pc.createDataChannel("oai-events")
    await pc.setLocalDescription(await pc.createOffer())
    sdp: str = pc.localDescription.sdp
    await pc.close()
    return sdp


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    config = Config(calls=CallsConfig(connect_deadline_s=30.0), log=LogConfig(level="error"))
    desk = Desk(tmp_path, config)
    await desk.start()
    yield desk
    await desk.close()


pytestmark = pytest.mark.loopback


async def test_offer_is_answered_and_the_session_opened_at_its_engine(desk: Desk) -> None:
    host = desk.serve()
    await desk.place("rtc_a", engine=desk.address)
    await until(lambda: desk.said(CallPlaced) and desk.engine.sessions)
    [placed] = desk.said(CallPlaced)
    assert placed.call_id == "rtc_a" and "m=audio" in placed.sdp and "a=candidate" in placed.sdp
    assert desk.engine.sessions["rtc_a"].config.mode == "full_duplex"
    assert host.slots.used == 1


async def test_hang_up_gives_the_slot_back_before_the_end_is_said(desk: Desk) -> None:
    host = desk.serve()
    await desk.place("rtc_a", engine=desk.address)
    await until(lambda: host.slots.used == 1 and desk.said(CallPlaced))
    desk.tell(HangUp("rtc_a", "hangup"))
    assert await desk.ended("rtc_a") == "hangup"
    assert host.slots.used == 0
    desk.tell(HangUp("rtc_a", "hangup"))
    desk.tell(HangUp("rtc_nobody", "hangup"))
    assert await desk.lives() and len(desk.said(CallEnded)) == 1


async def test_messages_on_the_heels_of_each_other_are_about_what_they_name(desk: Desk) -> None:
    sdp, settings = await offer(), SessionSettings()

    def place(call_id: str, n: int = 0) -> PlaceCall:
        return PlaceCall(call_id, sdp, settings, "127.0.0.1", is_resumable=True, n=n)

    # A call that is hung up before its task began, and one that is given again while it ends.
    for message in (place("rtc_a", 1), HangUp("rtc_a", "hangup"), place("rtc_a", 2)):
        desk.tell(message)
    assert await desk.ended("rtc_a") == "hangup"
    [end] = desk.said(CallEnded)
    await until(lambda: any(placed.n == 2 for placed in desk.said(CallPlaced)))
    assert end.n == 1
    desk.tell(GetStats(1))
    await until(lambda: desk.said(WorkerStats))
    assert [call.call_id for call in desk.said(WorkerStats)[-1].calls] == ["rtc_a"]
    # Of two offers to come back over, the latest counts.
    desk.tell(ResumeCall("rtc_a", sdp, 3))
    desk.tell(ResumeCall("rtc_a", sdp, 4))
    await until(lambda: any(placed.n == 4 for placed in desk.said(CallPlaced)))
    assert await desk.lives()
    assert desk.said(CallPlaced)[-1].n == 4
    desk.tell(HangUp("rtc_a", "hangup"))
    await until(lambda: len(desk.said(CallEnded)) == 2)
    assert [end.n for end in desk.said(CallEnded)] == [1, 2]


async def test_client_that_comes_back_before_its_first_offer_led_to_a_connection_is_told_of(
    desk: Desk,
) -> None:
    settings = SessionSettings()
    desk.tell(PlaceCall("rtc_a", await offer(), settings, "127.0.0.1", is_resumable=True, n=1))
    await until(lambda: desk.said(CallPlaced))
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        pc.addTransceiver("audio")
        pc.createDataChannel("oai-events")
        await pc.setLocalDescription(await pc.createOffer())
        desk.tell(ResumeCall("rtc_a", pc.localDescription.sdp, 2))
        await until(lambda: desk.said(CallPlaced)[-1].n == 2)
        answer = RTCSessionDescription(desk.said(CallPlaced)[-1].sdp, "answer")
        await pc.setRemoteDescription(answer)
        await until(lambda: desk.said(CallConnected))
    finally:
        await pc.close()
    assert desk.said(CallConnected) == [CallConnected("rtc_a", 1)]


@pytest.mark.parametrize(
    ("sdp", "param"), [("nonsense", "sdp"), ("v=0\r\n", "sdp"), ("v=0\r\nm=audio x\r\n", "sdp")]
)
async def test_offer_that_cannot_be_served_is_refused_and_over(
    desk: Desk, sdp: str, param: str
) -> None:
    await desk.place("rtc_bad", sdp)
    await desk.ended("rtc_bad")
    [refused] = desk.said(CallRefused)
    assert 400 <= refused.status < 500 and refused.param == param and refused.message
    assert desk.said(CallPlaced) == [] and await desk.lives()


async def test_bug_at_the_end_of_a_call_or_in_its_figures_costs_no_other_call(
    tmp_path: Path,
) -> None:
    # It logs the bug; nobody reads that here.
    config = Config(calls=CallsConfig(connect_deadline_s=30.0), log=LogConfig(level="error"))
    desk = Desk(tmp_path, config)
    await desk.start(BROKEN)
    for call_id in ("rtc_a", "rtc_b"):
        await desk.place(call_id)
    await until(lambda: len(desk.said(CallPlaced)) == 2)
    desk.tell(GetStats(1))
    desk.tell(HangUp("rtc_a", "hangup"))
    assert await desk.ended("rtc_a") == "hangup"
    desk.tell(HangUp("rtc_b", "hangup"))
    assert await desk.ended("rtc_b") == "hangup" and await desk.lives()
    await desk.close()


async def test_call_whose_engine_is_gone_before_it_is_served_gets_another(desk: Desk) -> None:
    with router(desk.address.endpoint) as raw:
        await desk.place("rtc_a", engine=desk.address)
        raw.send((await raw.receive())[0], encode(Refused("version", "too old")))
        await until(lambda: desk.said(SlotWanted))
    assert await desk.lives() and not desk.said(CallEnded)
    other = EngineAddress("engine-1", f"ipc://{desk.folder}/other")
    host = Host(desk.engine, other.endpoint, 1)
    desk.tell(AssignEngine("rtc_a", other))
    await until(lambda: host.slots.used == 1)
    await host.close()


async def test_full_engine_ends_the_call_with_its_reason(desk: Desk) -> None:
    desk.serve(slots=1)
    await desk.place("rtc_a", engine=desk.address)
    await until(lambda: desk.engine.sessions)
    await desk.place("rtc_b", engine=desk.address)
    assert await desk.ended("rtc_b") == "engine_full"
    assert [end.call_id for end in desk.said(CallEnded)] == ["rtc_b"]


async def test_calls_of_a_dead_engine_ask_for_another_at_once_and_go_on_there(desk: Desk) -> None:
    desk.serve()
    await desk.place("rtc_a", engine=desk.address)
    await until(lambda: desk.engine.sessions)
    desk.tell(EngineDown(desk.address.endpoint, "killed by signal 9"))
    await until(lambda: desk.said(SlotWanted))
    other = EngineAddress("engine-1", f"ipc://{desk.folder}/other")
    host = Host(desk.engine, other.endpoint, 1)
    desk.tell(AssignEngine("rtc_a", other))
    await until(lambda: host.slots.used == 1)
    assert not desk.said(CallEnded) and len(desk.said(SlotWanted)) == 1
    await host.close()


async def test_call_that_loses_engine_after_engine_goes_no_further(desk: Desk) -> None:
    hosts = []
    engine = desk.address
    desk.serve()
    await desk.place("rtc_a", engine=engine)
    for n in range(MAX_LOST_ENGINES):
        await until(lambda: desk.engine.sessions)
        desk.engine.sessions.clear()
        desk.tell(EngineDown(engine.endpoint, "killed by signal 9"))
        if n < MAX_LOST_ENGINES - 1:
            wanted = n + 1
            await until(lambda: len(desk.said(SlotWanted)) == wanted)  # noqa: B023 - awaited here
            engine = EngineAddress("engine-0", f"ipc://{desk.folder}/life{n}")
            hosts.append(Host(desk.engine, engine.endpoint, 1))
            desk.tell(AssignEngine("rtc_a", engine))
    assert await desk.ended("rtc_a") == "engine_gone"
    for host in hosts:
        await host.close()


@pytest.mark.parametrize(
    ("name", "reason"), [("bug", "engine_failed"), ("bye", "goodbye")], ids=["failed", "goodbye"]
)
async def test_end_said_by_the_engine_ends_the_call(desk: Desk, name: str, reason: str) -> None:
    host = desk.serve()
    await desk.place("rtc_a", engine=desk.address)
    await until(lambda: desk.engine.sessions)
    [peer] = host._names
    host._receive(peer, item("rtc_a", name))
    assert await desk.ended("rtc_a") == reason
    assert host.slots.used == 0


async def test_waiting_call_is_served_once_it_is_assigned(desk: Desk) -> None:
    host = desk.serve()
    await desk.place("rtc_a")
    await until(lambda: desk.said(CallPlaced))
    desk.tell(QueuePosition("rtc_a", 1, 30.0))
    desk.tell(GetStats(1))
    await until(lambda: desk.said(WorkerStats))
    assert [call.state for call in desk.said(WorkerStats)[0].calls] == ["connecting"]
    assert host.slots.used == 0
    desk.tell(AssignEngine("rtc_a", desk.address))
    await until(lambda: host.slots.used == 1)


async def test_statistics_tell_of_every_call(desk: Desk) -> None:
    desk.serve()
    for call_id in ("rtc_a", "rtc_b"):
        await desk.place(call_id, engine=desk.address)
    await until(lambda: len(desk.said(CallPlaced)) == 2 and len(desk.engine.sessions) == 2)
    desk.tell(GetStats(5))
    await until(lambda: desk.said(WorkerStats))
    [stats] = desk.said(WorkerStats)
    assert stats.n == 5 and stats.rss_bytes > 10_000_000
    assert {call.call_id for call in stats.calls} == {"rtc_a", "rtc_b"}
    for call in stats.calls:
        assert call.mode == "full_duplex" and call.turns == 0
        assert {"inbound-rtp", "outbound-rtp"} <= {row["type"] for row in call.stats}


async def test_peer_that_never_connects_ends_at_the_deadline(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Config(calls=CallsConfig(connect_deadline_s=0.3)))
    await desk.start()
    await desk.place("rtc_a")
    assert await desk.ended("rtc_a") == "connect_timeout"
    assert desk.said(CallConnected) == []
    await desk.close()


async def test_call_may_not_be_longer_than_configured(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Config(calls=CallsConfig(max_duration_s=0.2)))
    await desk.start()
    host = desk.serve()
    await desk.place("rtc_a", engine=desk.address)
    assert await desk.ended("rtc_a") == "max_duration"
    assert host.slots.used == 0
    await desk.close()


async def test_shutdown_ends_every_call_and_then_the_worker(desk: Desk) -> None:
    host = desk.serve()
    for call_id in ("rtc_a", "rtc_b"):
        await desk.place(call_id, engine=desk.address)
    await until(lambda: host.slots.used == 2)
    desk.tell(Shutdown(2.0))
    assert await desk.exit_code() == 0
    await until(lambda: len(desk.said(CallEnded)) == 2 and host.slots.used == 0)
    assert {end.reason for end in desk.said(CallEnded)} == {"server_shutdown"}


async def test_ice_settings_come_from_the_configuration() -> None:
    plain = ice_settings(MediaConfig())
    assert (
        plain.port_range is None and plain.stun == plain.turn == () and plain.public_addresses == ()
    )
    full = ice_settings(
        MediaConfig(
            ports="50000-50010",
            public_address="192.0.2.1",
            public_address_v6="2001:db8::1",
            addresses=("10.0.0.0/8",),
            stun=("stun:s:1", "stun:s:2"),
            turn=("turn:t:1?transport=tcp",),
            turn_user="u",
            turn_password="p",
        )
    )
    assert full.port_range == (50000, 50010) and full.addresses == ("10.0.0.0/8",)
    assert full.public_addresses == ("192.0.2.1", "2001:db8::1")
    assert [(url.host, url.port) for url in full.stun] == [("s", 1), ("s", 2)]
    assert [(url.host, url.port, url.is_tcp) for url in full.turn] == [("t", 1, True)]
    assert full.turn_login.credentials(0.0) == ("u", "p")
    short = ice_settings(MediaConfig(turn_secret="s", turn_lifetime_s=60))
    assert short.turn_login.credentials(0.0)[0].startswith("60:")
