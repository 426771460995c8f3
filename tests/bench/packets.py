"""What load tests send: prepared packets, by callers that decode nothing.

A process can so have dozens of calls, each of them one of `omnicall.client`.
"""

from __future__ import annotations

import asyncio
import fractions
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from media import hooks
from media.clock import Ticker
from media.formats import (
    DOWNLINK_HZ,
    PTIME_MS,
    RTP_OPUS_HZ,
    RTP_OPUS_PACKET_TICKS,
    RTP_VIDEO_HZ,
    SAMPLE_BYTES,
)
from media.opus import OpusEncoder
from omnicall.client.address import Address
from omnicall.client.carrier import Callbacks
from omnicall.client.peer import PeerCarrier
from omnicall.client.sound import Unsaid
from tests import ROOT

CAMERA = (640, 480)
CAMERA_FPS = 2
PICTURES = 6
SOUND_S = 4.0
SPOKEN = ROOT / "tests" / "engine" / "data" / "tell_story.wav"
"""A made voice with an even rhythm would be taken for the echo of an answer."""


def opus_packets(pcm: bytes, hz: int = DOWNLINK_HZ) -> list[bytes]:
    """20 ms each."""
    encoder = OpusEncoder(hz)
    size = SAMPLE_BYTES * hz * PTIME_MS // 1000
    return [encoder.encode(pcm[i : i + size]) for i in range(0, len(pcm) - size + 1, size)]


def spoken(path: Path = SPOKEN) -> list[bytes]:
    """A sentence."""
    with wave.open(str(path)) as file:
        return opus_packets(file.readframes(file.getnframes()), file.getframerate())


def murmur() -> list[bytes]:
    """A quiet room."""
    rng = np.random.default_rng(1)
    samples = rng.integers(-20, 20, int(SOUND_S * DOWNLINK_HZ), dtype=np.int16)
    return opus_packets(samples.tobytes())


def keyframes() -> list[bytes]:
    """VP8 pictures of noise in patches, each one a keyframe."""
    rng = np.random.default_rng(1)
    codec: Any = av.CodecContext.create("libvpx", "w")
    codec.width, codec.height, codec.pix_fmt = *CAMERA, "yuv420p"
    codec.time_base = fractions.Fraction(1, CAMERA_FPS)
    codec.bit_rate = 500_000
    codec.options = {"g": "1", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
    found: list[bytes] = []
    for index in range(PICTURES):
        patches = rng.integers(0, 255, (CAMERA[1] // 20, CAMERA[0] // 20, 3), dtype=np.uint8)
        image = patches.repeat(20, axis=0).repeat(20, axis=1)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, codec.time_base
        found += [bytes(packet) for packet in codec.encode(frame)]
    return found


class Camera(MediaStreamTrack):
    """Sends prepared keyframes."""

    kind = "video"

    def __init__(self, pictures: list[bytes], phase_s: float) -> None:
        super().__init__()
        self._pictures = pictures
        self._begin = time.monotonic() + phase_s
        self._index = 0

    async def recv(self) -> av.Packet[Any]:
        due = self._begin + self._index / CAMERA_FPS
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if self.readyState != "live":
            raise MediaStreamError
        packet: av.Packet[Any] = av.Packet(self._pictures[self._index % len(self._pictures)])
        packet.pts = self._index * RTP_VIDEO_HZ // CAMERA_FPS
        packet.time_base = fractions.Fraction(1, RTP_VIDEO_HZ)
        self._index += 1
        return packet


class Voice(MediaStreamTrack):
    """Sends prepared sound at each tick; `speak_over` puts a sentence in."""

    kind = "audio"

    def __init__(self, quiet: list[bytes], loud: list[bytes], ticker: Ticker) -> None:
        super().__init__()
        self._quiet, self._loud = quiet, loud
        self._tick = asyncio.Event()
        self.sent = 0
        """Packets."""
        self._over = 0
        self._unsubscribe = ticker.subscribe(self._tick.set)

    def speak_over(self) -> None:
        self._over = len(self._loud)

    async def recv(self) -> av.Packet[Any]:
        await self._tick.wait()
        self._tick.clear()
        payload = (
            self._loud[-self._over] if self._over else self._quiet[self.sent % len(self._quiet)]
        )
        self._over = max(0, self._over - 1)
        packet: av.Packet[Any] = av.Packet(payload)
        packet.pts = self.sent * RTP_OPUS_PACKET_TICKS
        packet.time_base = fractions.Fraction(1, RTP_OPUS_HZ)
        self.sent += 1
        return packet

    def stop(self) -> None:
        super().stop()
        self._unsubscribe()


class PacketCarrier(PeerCarrier):
    """Carries a call of prepared packets; `heard` gets each packet that comes."""

    def __init__(
        self,
        address: Address,
        voice: Unsaid,
        listener: Callbacks,
        *,
        tracks: list[MediaStreamTrack],
        heard: Callable[[hooks.AudioPacket], None],
    ) -> None:
        super().__init__(address, voice, listener)
        self.tracks = tracks
        self._heard = heard

    async def hear(self, track: MediaStreamTrack) -> None:
        assert self.pc is not None
        loop = asyncio.get_running_loop()

        def take(packet: hooks.AudioPacket, codec: str) -> None:
            self.heard_at = loop.time()
            self._heard(packet)

        receiver = next(r for r in self.pc.getReceivers() if r.track is track)
        hooks.take_audio(receiver, take)
