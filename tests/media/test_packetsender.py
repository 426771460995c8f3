"""Packets of sound by aiortc's sender, at once: what is sent, what its reports say, and its end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiortc import RTCRtpSender
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpSendParameters,
)
from aiortc.rtp import HeaderExtensionsMap, RtpPacket, is_rtcp

from media import hooks
from media.packetsender import PacketSender
from tests.media.rig import AUDIO_CODECS, OPUS, PCMU, FakeTransport

MID = RTCRtpHeaderExtensionParameters(id=4, uri="urn:ietf:params:rtp-hdrext:sdes:mid")


class Wire(FakeTransport):
    """As much of a DTLS transport as a sender touches; may be over, or make a packet wait."""

    refusal: Callable[[], Any] | None = None

    def _register_rtp_sender(self, sender: object, parameters: object) -> None: ...

    def _unregister_rtp_sender(self, sender: object) -> None: ...

    async def _send_rtp(self, data: bytes) -> None:
        if self.refusal is not None:
            await self.refusal()
        await super()._send_rtp(data)

    def packets(self) -> list[RtpPacket]:
        extensions = HeaderExtensionsMap()
        extensions.configure(RTCRtpSendParameters(headerExtensions=[MID]))
        return [RtpPacket.parse(data, extensions) for data in self.sent if not is_rtcp(data)]


def parameters(mid: str) -> RTCRtpSendParameters:
    rtcp = RTCRtcpParameters(cname="ours")
    return RTCRtpSendParameters(codecs=AUDIO_CODECS, headerExtensions=[MID], muxId=mid, rtcp=rtcp)


@asynccontextmanager
async def sending(mid: str = "a1") -> AsyncIterator[tuple[PacketSender, Wire, RTCRtpSender]]:
    """A sender that is connected."""
    wire = Wire()
    sender = RTCRtpSender("audio", wire)  # type: ignore[arg-type]
    errors: list[Exception] = []
    packets = PacketSender(sender, errors.append)
    packets.send(b"early", 0)
    assert not packets.is_open
    await sender.send(parameters(mid))
    await asyncio.sleep(0)
    assert packets.is_open and not wire.sent and not errors
    try:
        yield packets, wire, sender
    finally:
        await sender.stop()
        assert not packets.is_open


async def test_packets_follow_each_other_and_are_counted() -> None:
    async with sending() as (packets, wire, sender):
        for i in range(3):
            packets.send(b"sound", 960 * i)
        packets.send(b"other", 960 * 3, PCMU)
        first, *more = wire.packets()
        for i, packet in enumerate(more, 1):
            assert packet.sequence_number == (first.sequence_number + i) & 0xFFFF
            assert packet.timestamp == (first.timestamp + 960 * i) & 0xFFFFFFFF
            assert (packet.ssrc, packet.marker) == (sender._ssrc, 0)
            assert packet.extensions.mid == "a1"
        assert [(p.payload_type, p.payload) for p in (first, more[-1])] == [
            (OPUS, b"sound"),
            (PCMU, b"other"),
        ]
        sent = hooks.transmission(sender)
        assert (sent.packets_sent, sent.bytes_sent) == (4, 20)
        # What its sender reports tell.
        vars_ = vars(sender)
        assert vars_["_RTCRtpSender__rtp_timestamp"] == more[-1].timestamp
        assert vars_["_RTCRtpSender__ntp_timestamp"] >> 32 > 3_900_000_000


async def test_sound_never_reads_as_a_report() -> None:
    async with sending() as (packets, wire, _):
        for payload_type in range(128):
            packets.send(b"sound", 0, payload_type)
        assert [p.payload_type for p in wire.packets()] == list(range(128))


async def test_the_longest_name_of_a_line_is_told() -> None:
    async with sending(255 * "m") as (packets, wire, _):
        packets.send(b"sound", 0)
        (packet,) = wire.packets()
        assert (packet.extensions.mid, packet.payload) == (255 * "m", b"sound")


async def test_a_sender_that_cannot_begin_says_so_and_can_be_stopped() -> None:
    sender = RTCRtpSender("audio", Wire())  # type: ignore[arg-type]
    errors: list[Exception] = []
    packets = PacketSender(sender, errors.append)
    await sender.send(parameters(256 * "m"))
    await sender.stop()
    assert [type(error) for error in errors] == [AssertionError]
    assert not packets.is_open


async def test_nothing_is_sent_where_it_is_disabled_or_the_connection_is_over() -> None:
    async def refuse() -> None:
        raise ConnectionError

    async with sending() as (packets, wire, sender):
        sender._enabled = False
        packets.send(b"sound", 0)
        sender._enabled = True
        wire.refusal = refuse
        packets.send(b"sound", 960)
        assert wire.packets() == []
        assert hooks.transmission(sender).packets_sent == 0
        wire.refusal = None


async def test_a_transport_that_waits_is_an_error_and_no_silent_loss() -> None:
    async with sending() as (packets, wire, _):
        wire.refusal = lambda: asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="waits"):
            packets.send(b"sound", 0)
        wire.refusal = None


async def test_the_end_of_the_connection_stops_the_track() -> None:
    async with sending() as (packets, _, sender):
        track: Any = type("Track", (), {"id": "t", "stop": lambda self: stopped.append(self)})()
        stopped: list[object] = []
        sender.replaceTrack(track)
    assert stopped == [track]
    packets.send(b"late", 0)
