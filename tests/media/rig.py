"""A real aiortc receiver without a network: packets go in by hand, RTCP comes out as bytes."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiortc import RTCRtpReceiver
from aiortc.rtcrtpparameters import (
    RTCRtpCodecParameters,
    RTCRtpDecodingParameters,
    RTCRtpReceiveParameters,
    RTCRtpRtxParameters,
)
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from aiortc.rtp import RtcpPacket, RtpPacket

OPUS, PCMU, VP8, VP8_RTX, H264, RED = 96, 0, 97, 98, 99, 63
"""Payload types."""

AUDIO_CODECS = [
    RTCRtpCodecParameters("audio/opus", 48_000, 2, OPUS),
    RTCRtpCodecParameters("audio/PCMU", 8000, 1, PCMU),
    RTCRtpCodecParameters("audio/red", 48_000, 2, RED),
]
VIDEO_CODECS = [
    RTCRtpCodecParameters("video/VP8", 90_000, None, VP8),
    RTCRtpCodecParameters("video/rtx", 90_000, None, VP8_RTX, parameters={"apt": VP8}),
    RTCRtpCodecParameters("video/H264", 90_000, None, H264),
]


class FakeTransport:
    """As much of a DTLS transport as a receiver touches."""

    state = "connected"
    _stats_id = "transport"

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.has_sent = asyncio.Event()

    def _register_rtp_receiver(self, receiver: object, parameters: object) -> None: ...

    def _unregister_rtp_receiver(self, receiver: object) -> None: ...

    async def _send_rtp(self, data: bytes) -> None:
        self.sent.append(data)
        self.has_sent.set()

    def rtcp(self, kind: type) -> list[Any]:
        """Return the RTCP packets of one kind that were sent."""
        packets = [packet for data in self.sent for packet in RtcpPacket.parse(data)]
        return [packet for packet in packets if isinstance(packet, kind)]


class Rig:
    """A started receiver; hook it, then `feed` it."""

    def __init__(self, kind: str) -> None:
        self.transport = FakeTransport()
        self.receiver = RTCRtpReceiver(kind, self.transport)  # type: ignore[arg-type]
        self.receiver._track = RemoteStreamTrack(kind)
        self.receiver._set_rtcp_ssrc(4242)
        self._kind = kind

    async def start(self) -> None:
        """Do what the peer connection does when it is connected."""
        codecs = AUDIO_CODECS if self._kind == "audio" else VIDEO_CODECS
        encoding = RTCRtpDecodingParameters(
            ssrc=1, payloadType=codecs[0].payloadType or 0, rtx=RTCRtpRtxParameters(ssrc=2)
        )
        await self.receiver.receive(RTCRtpReceiveParameters(codecs=codecs, encodings=[encoding]))

    async def feed(
        self,
        sequence: int,
        timestamp: int,
        payload: bytes,
        *,
        payload_type: int,
        ssrc: int = 1,
        marker: int = 0,
    ) -> None:
        """Let one packet arrive."""
        packet = RtpPacket(
            payload_type=payload_type,
            marker=marker,
            sequence_number=sequence & 0xFFFF,
            timestamp=timestamp & 0xFFFFFFFF,
            ssrc=ssrc,
            payload=payload,
        )
        await self.receiver._handle_rtp_packet(packet, arrival_time_ms=0)


def assert_no_decoder_thread() -> None:
    """Fail unless aiortc's decoder threads end by themselves."""
    for thread in threading.enumerate():
        if thread.name.endswith("-decoder"):
            thread.join(5)
            assert not thread.is_alive(), thread.name


@asynccontextmanager
async def rig(kind: str) -> AsyncIterator[Rig]:
    """Yield a receiver that is stopped at the end."""
    made = Rig(kind)
    try:
        yield made
    finally:
        await made.receiver.stop()
