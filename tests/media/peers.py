"""Two real aiortc peers over loopback, and what they send."""

import asyncio
import fractions
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, VideoStreamTrack

from media.clock import Ticker
from media.formats import RTP_OPUS_HZ, RTP_OPUS_PACKET_TICKS


def speech(seconds: float, hz: int, seed: int = 1) -> bytes:
    """Return speech-like int16 PCM: a voice of changing pitch in syllables, over faint noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * hz)) / hz
    phase = np.cumsum(130 + 25 * np.sin(2 * np.pi * 1.7 * t)) * 2 * np.pi / hz
    voice = sum(np.sin(k * phase + k) / k for k in range(1, 16))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * t)
    samples = voice * syllables * 3500 + rng.normal(0, 25, len(t))
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()


class PacketTrack(MediaStreamTrack):
    """Send encoded packets in a loop, one at each tick."""

    kind = "audio"

    def __init__(self, packets: list[bytes], ticker: Ticker) -> None:
        super().__init__()
        self._packets = packets
        self._tick = asyncio.Event()
        self._index = 0
        self._unsubscribe = ticker.subscribe(self._tick.set)

    async def recv(self) -> "av.Packet[Any]":
        await self._tick.wait()
        self._tick.clear()
        packet: av.Packet[Any] = av.Packet(self._packets[self._index % len(self._packets)])
        packet.pts = self._index * RTP_OPUS_PACKET_TICKS
        packet.time_base = fractions.Fraction(1, RTP_OPUS_HZ)
        self._index += 1
        return packet

    def stop(self) -> None:
        super().stop()
        self._unsubscribe()


class CameraTrack(VideoStreamTrack):
    """Send a moving gradient; `sizes(i)` gives width and height of frame i."""

    def __init__(self, fps: int, sizes: Callable[[int], tuple[int, int]]) -> None:
        super().__init__()
        self._fps = fps
        self._sizes = sizes
        self._index = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(1 / self._fps)
        width, height = self._sizes(self._index)
        rows = np.linspace(0, 200, height, dtype=np.uint8)[:, None, None]
        image = np.broadcast_to(rows, (height, width, 3)).copy()
        image[:, : width // 2, 0] = 255
        image[: height // 4, :, 1] = (self._index * 5) % 256
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = self._index * 90_000 // self._fps
        frame.time_base = fractions.Fraction(1, 90_000)
        self._index += 1
        return frame


@asynccontextmanager
async def peers() -> AsyncIterator[tuple[RTCPeerConnection, RTCPeerConnection]]:
    """Yield a client and a server peer connection, closed at the end."""
    client = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    server = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        yield client, server
    finally:
        await client.close()
        await server.close()


async def connect(client: RTCPeerConnection, server: RTCPeerConnection) -> None:
    """Let the client offer and the server answer."""
    await client.setLocalDescription(await client.createOffer())
    await server.setRemoteDescription(client.localDescription)
    await server.setLocalDescription(await server.createAnswer())
    await client.setRemoteDescription(server.localDescription)
