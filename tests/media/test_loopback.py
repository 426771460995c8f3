"""Two real aiortc peers over loopback: our media path against aiortc's own sender and receiver."""

import asyncio
import random
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender
from aiortc.rtp import RtpPacket, is_rtcp

from media import hooks
from media.clock import Ticker
from media.downlink import AudioDownlink
from media.opus import SILENT_PACKET, OpusDecoder, OpusEncoder
from media.picture import CameraPicture
from media.playout import Playout
from media.uplink import AudioUplink
from media.video import VideoUplink
from tests.media.peers import CameraTrack, PacketTrack, connect, peers, speech

pytestmark = pytest.mark.loopback

TIMEOUT_S = 20


class Wait:
    """An event set once enough of something has happened."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.event = asyncio.Event()

    def one(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.event.set()

    async def all(self) -> None:
        await asyncio.wait_for(self.event.wait(), TIMEOUT_S)


class Listener:
    def __init__(self, drained: Wait) -> None:
        self.drained_wait = drained

    def started(self, epoch: int) -> None: ...

    def progressed(self, epoch: int, samples: int) -> None: ...

    def drained(self, epoch: int) -> None:
        self.drained_wait.one()


def receiver_of(pc: RTCPeerConnection, track: MediaStreamTrack) -> RTCRtpReceiver:
    return next(r for r in pc.getReceivers() if r.track is track)


def encoded(seconds: float) -> list[bytes]:
    encoder = OpusEncoder()
    pcm = speech(seconds, 24_000)
    return [encoder.encode(pcm[i : i + 960]) for i in range(0, len(pcm), 960)]


def drop(sender: RTCRtpSender, is_dropped: Callable[[bytes], bool]) -> None:
    """Lose some of what a sender sends."""
    transport: Any = sender.transport
    send = transport._send_rtp

    async def send_some(data: bytes) -> None:
        if is_rtcp(data) or not is_dropped(data):
            await send(data)

    transport._send_rtp = send_some


async def test_audio_with_loss_is_gapless_and_reported_to_the_sender() -> None:
    ticker, rng = Ticker(), random.Random(11)
    pieces: list[int] = []
    errors: list[Exception] = []
    enough = Wait(150)
    lost: set[int] = set()
    async with peers() as (client, server):
        sender = client.addTrack(PacketTrack(encoded(2.0), ticker))
        uplinks: list[AudioUplink] = []

        def is_dropped(data: bytes) -> bool:
            (sequence,) = struct.unpack_from("!H", data, 2)
            if len(pieces) < 20 or rng.random() > 0.1:
                return False
            lost.add(sequence)
            return True

        def hear(pts: int, pcm: bytes) -> None:
            assert len(pcm) == 640
            pieces.append(pts)
            enough.one()

        @server.on("track")
        def attach(track: MediaStreamTrack) -> None:
            uplink = AudioUplink(receiver_of(server, track), hear, on_error=errors.append)
            ticker.subscribe(uplink.poll)
            uplinks.append(uplink)

        await connect(client, server)
        drop(sender, is_dropped)
        await enough.all()
        stats = uplinks[0].stats()
        ticker.close()
    assert pieces == [320 * i for i in range(len(pieces))]
    assert errors == []
    assert lost
    filled = stats["concealedSamples"] + stats["fecSamplesRecovered"]
    assert stats["fecSamplesRecovered"] > 0
    assert filled >= (len(lost) - 5) * 320
    assert stats["jitter"] < 1


async def test_downlink_is_heard_whole_by_a_stock_receiver_and_ends_in_silence() -> None:
    ticker = Ticker()
    drained, tail = Wait(1), Wait(5)
    heard: list[RtpPacket] = []
    errors: list[Exception] = []
    async with peers() as (client, server):
        client.addTransceiver("audio", direction="recvonly")
        playout = Playout(listener=Listener(drained))
        downlink = AudioDownlink(playout, ticker, on_error=errors.append)

        @client.on("track")
        def attach(track: MediaStreamTrack) -> None:
            def on_packet(packet: hooks.AudioPacket, codec: str) -> None:
                assert codec == "opus" and isinstance(packet, RtpPacket)
                heard.append(packet)
                if drained.event.is_set() and packet.payload == SILENT_PACKET:
                    tail.one()

            hooks.take_audio(receiver_of(client, track), on_packet)

        sender = server.addTrack(downlink)
        downlink.bind(sender)
        playout.push(1, speech(1.0, 24_000))
        playout.finish(1)
        await connect(client, server)
        await drained.all()
        await tail.all()
        stats = downlink.stats()
        ticker.close()
    first = heard[0]
    for i, packet in enumerate(heard):
        assert packet.sequence_number == (first.sequence_number + i) & 0xFFFF
        # Ticks that a busy machine left out show as whole steps.
        passed = (packet.timestamp - first.timestamp - 960 * i) & 0xFFFFFFFF
        assert passed % 960 == 0
        assert passed < 48_000 * TIMEOUT_S
    spoken = [p for p in heard if p.payload != SILENT_PACKET]
    # The first may be gone before the client's side of the handshake is done.
    assert 40 <= len(spoken) <= 51
    decoder = OpusDecoder()
    assert {len(decoder.decode(p.payload)) for p in heard} == {640}
    assert stats["packetsSent"] >= len(heard)
    assert {packet.extensions.mid for packet in heard} == {"0"}
    assert errors == []
    assert playout.heard(1) == 24_000


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_real_video_with_a_change_of_size(codec: str) -> None:
    pictures: list[CameraPicture] = []
    errors: list[Exception] = []
    small = asyncio.Event()
    executor = ThreadPoolExecutor(1)
    async with peers() as (client, server):
        client.addTrack(CameraTrack(10, lambda i: (640, 480) if i < 12 else (320, 240)))
        capabilities = RTCRtpSender.getCapabilities("video").codecs
        chosen = [c for c in capabilities if c.name in (codec, "rtx")]
        client.getTransceivers()[0].setCodecPreferences(chosen)
        uplinks: list[VideoUplink] = []

        def see(picture: CameraPicture) -> None:
            pictures.append(picture)
            if picture.width == 320:
                small.set()

        @server.on("track")
        def attach(track: MediaStreamTrack) -> None:
            receiver = receiver_of(server, track)
            uplinks.append(VideoUplink(receiver, see, executor=executor, on_error=errors.append))

        await connect(client, server)
        await asyncio.wait_for(small.wait(), TIMEOUT_S)
        stats = uplinks[0].stats()
        assert not receiver_of(server, server.getReceivers()[0].track).track._queue.qsize() > 1  # type: ignore[attr-defined]
    executor.shutdown()
    assert {(p.width, p.height) for p in pictures} == {(640, 480), (320, 240)}
    assert all(len(p.rgb) == p.width * p.height * 3 for p in pictures)
    assert stats["keyFramesDecoded"] >= 2
    # Until the sender has shown that it answers requests, every frame is decoded.
    assert stats["framesDecoded"] >= 0.8 * stats["framesReceived"] - 2
    assert stats["decodeErrors"] == 0
    assert errors == []


async def test_second_audio_track_is_discarded_and_no_thread_remains() -> None:
    ticker, heard = Ticker(), Wait(30)
    async with peers() as (client, server):
        packets = encoded(1.0)
        client.addTrack(PacketTrack(packets, ticker))
        client.addTrack(PacketTrack(packets, ticker))
        receivers: list[RTCRtpReceiver] = []
        errors: list[Exception] = []

        @server.on("track")
        def attach(track: MediaStreamTrack) -> None:
            receiver = receiver_of(server, track)
            receivers.append(receiver)
            if len(receivers) > 1:
                hooks.discard(receiver)
            else:
                AudioUplink(receiver, lambda pts, pcm: heard.one(), on_error=errors.append)

        await connect(client, server)
        await heard.all()
        assert [r.track._queue.qsize() <= 1 for r in receivers] == [True, True]  # type: ignore[attr-defined]
        assert errors == []
        ticker.close()
    assert not [t for t in threading.enumerate() if t.name == "audio-decoder" and t.is_alive()]
