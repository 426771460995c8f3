"""Addresses and ports of media, and that every hook into aioice is really called."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioice.ice
import aioice.stun
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription

from signaling.ice import IceSettings, configuration, host_addresses
from signaling.ice_servers import TurnLogin, parse_url
from signaling.peer import Peer
from signaling.prepared import prepare_offer
from signaling.wire import Wire
from tests.signaling.offers import CHROMIUM_OFFER
from tests.signaling.rtc import Client, Recorder, SilentTrack
from tests.waiting import until

Patch = pytest.MonkeyPatch


def hosts(monkeypatch: Patch, *addresses: str) -> None:
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [*addresses])


def test_addresses(monkeypatch: Patch) -> None:
    hosts(monkeypatch, "192.0.2.2", "10.1.2.3", "fd00::2")
    assert host_addresses(IceSettings()) == ["192.0.2.2", "10.1.2.3", "fd00::2"]
    assert host_addresses(IceSettings(addresses=("10.0.0.0/8",))) == ["10.1.2.3"]
    assert host_addresses(IceSettings(addresses=("fd00::2",), loopback="also")) == [
        "fd00::2",
        "127.0.0.1",
    ]
    assert host_addresses(IceSettings(loopback="only")) == ["127.0.0.1"]
    assert host_addresses(IceSettings(addresses=("127.0.0.0/8",))) == ["127.0.0.1"]
    hosts(monkeypatch)
    assert host_addresses(IceSettings()) == ["127.0.0.1"]
    assert host_addresses(IceSettings(loopback="never")) == []


async def test_a_host_without_any_address_that_is_named_takes_no_calls(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    hosts(monkeypatch, "192.0.2.2")
    with pytest.raises(OSError, match="no address and port"):
        await candidates(IceSettings(addresses=("10.99.0.0/16",)))
    assert "none of this host's addresses" in caplog.text


def test_no_stun_server_by_default() -> None:
    assert configuration().iceServers == []


async def candidates(settings: IceSettings) -> list[list[str]]:
    peer = Peer("rtc_test", settings, Recorder())
    answer = await peer.answer(CHROMIUM_OFFER, downlink=SilentTrack())
    await peer.close()
    first = answer.split("m=video")[0].splitlines()
    return [line.split() for line in first if line.startswith("a=candidate:")]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_port_range_is_kept_and_exhaustion_is_an_error() -> None:
    port = free_port()
    settings = IceSettings(loopback="only", port_range=(port, port))
    assert [c[5] for c in await candidates(settings)] == [str(port)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        with pytest.raises(OSError, match="no address and port"):
            await candidates(settings)


async def test_public_address_is_offered_with_the_local_port() -> None:
    found = await candidates(IceSettings(loopback="only", public_addresses=("203.0.113.9", "::9")))
    (_, _, _, _, host, port, _, kind), public = found
    assert (host, kind) == ("127.0.0.1", "host")
    assert public[4:] == ["203.0.113.9", port, "typ", "srflx", "raddr", "127.0.0.1", "rport", port]


async def test_dead_servers_cost_half_a_second_once(caplog: pytest.LogCaptureFixture) -> None:
    dead = f"127.0.0.1:{free_port()}"
    settings = IceSettings(
        loopback="only",
        stun=(parse_url(f"stun:{dead}"),),
        turn=(parse_url(f"turn:{dead}"), parse_url(f"turn:{dead}?transport=tcp")),
        turn_login=TurnLogin(secret="s"),
    )
    assert settings.gather_timeout_s <= 0.5
    for _ in range(2):
        assert len(await candidates(settings)) == 1
    assert len(caplog.records) == 3, "each was asked once"


async def test_of_several_servers_those_that_answer_count() -> None:
    """Two live STUN servers see us alike, a dead one does not keep their answers away."""
    urls = [parse_url(f"stun:127.0.0.1:{free_port()}")]
    async with stun_server() as first, stun_server() as second:
        urls += [parse_url(f"stun:127.0.0.1:{port}") for port in (first, second)]
        settings = IceSettings(loopback="only", stun=tuple(urls), gather_timeout_s=2.0)
        found = await candidates(settings)
        assert [c[7] for c in found] == ["host", "srflx"]
        assert found[1][4] == "203.0.113.5"
        assert [settings.resting.rests(url) for url in urls] == [True, False, False]


@asynccontextmanager
async def stun_server() -> AsyncIterator[int]:
    """Says of everybody that they are at 203.0.113.5."""

    class Answering(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
            asked = aioice.stun.parse_message(data)
            answer = aioice.stun.Message(
                asked.message_method, aioice.stun.Class.RESPONSE, asked.transaction_id
            )
            answer.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.5", addr[1])
            self.transport.sendto(bytes(answer), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Answering, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def connection() -> tuple[RTCPeerConnection, Wire]:
    pc = RTCPeerConnection(configuration())
    offer = prepare_offer(CHROMIUM_OFFER).text
    await pc.setRemoteDescription(RTCSessionDescription(sdp=offer, type="offer"))
    wire = Wire(pc, IceSettings(loopback="only"), time.monotonic, exceeded=lambda: None)
    await pc.setLocalDescription()
    return pc, wire


async def test_abort_closes_the_sockets_and_does_not_freeze_the_loop() -> None:
    # Closing right after is the case in which aiortc's monitor would spin (see _get_event).
    pc, wire = await connection()
    (hooks,) = wire._hooks.values()
    transport = hooks.connection._protocols[0].transport
    wire.abort()
    assert transport.is_closing()
    await asyncio.wait_for(pc.close(), 10)


@pytest.mark.loopback
async def test_loopback_only_host_connects(monkeypatch: Patch) -> None:
    hosts(monkeypatch, "127.0.0.1")
    listener = Recorder()
    peer, client = Peer("rtc_test", IceSettings(loopback="only"), listener), Client()
    await client.call(peer)
    await until(lambda: "channel_open" in listener.told)
    await client.close()
    await peer.close()


@pytest.mark.loopback
async def test_consent_is_asked_and_its_round_trip_measured() -> None:
    listener = Recorder()
    peer, client = Peer("rtc_test", IceSettings(consent_interval_s=0.05), listener), Client()
    await client.call(peer)
    await until(lambda: peer.is_connected)
    await asyncio.sleep(0.3)
    pair = next(s for s in (await peer.stats()).values() if s["type"] == "candidate-pair")
    assert pair["responsesReceived"] >= 2
    assert 0 < pair["currentRoundTripTime"] < 0.5
    await client.close()
    await peer.close()


@pytest.mark.loopback
async def test_without_consent_the_connection_ends() -> None:
    listener = Recorder()
    settings = IceSettings(consent_interval_s=0.05, consent_expiry_s=0.5)
    peer, client = Peer("rtc_test", settings, listener), Client()
    await client.call(peer)
    await until(lambda: peer.is_connected)
    client.vanish()
    await until(lambda: bool(listener.reasons))
    assert listener.reasons[0] in ("failed", "closed")
    await client.close()
    await peer.close()
