"""A real aiortc client for loopback tests, and a listener that records what a Peer tells."""

import asyncio
import fractions
import time
from collections.abc import Callable
from typing import Any

import av
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)

from signaling.errors import ProtocolError
from signaling.peer import Peer


class SilentTrack(MediaStreamTrack):
    """Sends 20 ms of pre-encoded Opus silence, paced; keeps no thread busy."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._sent = 0
        self._started_at: float | None = None

    async def recv(self) -> "av.Packet[Any]":
        if self._started_at is None:
            self._started_at = time.monotonic()
        await asyncio.sleep(max(0.0, self._started_at + self._sent * 0.02 - time.monotonic()))
        packet = av.Packet(b"\xf8\xff\xfe")
        packet.pts = self._sent * 960
        packet.time_base = fractions.Fraction(1, 48000)
        self._sent += 1
        return packet


class Recorder:
    """A PeerListener that keeps everything it is told."""

    def __init__(self, on_message: Callable[[str], None] | None = None) -> None:
        self.told: list[str] = []
        self.messages: list[str] = []
        self.errors: list[ProtocolError] = []
        self.reasons: list[str] = []
        self.gone_at = 0.0
        self.silent_s = 0.0
        self.on_message = on_message

    def connected(self) -> None:
        self.told.append("connected")

    def channel_open(self) -> None:
        self.told.append("channel_open")

    def message(self, text: str) -> None:
        self.messages.append(text)
        if self.on_message is not None:
            self.on_message(text)

    def refused(self, error: ProtocolError) -> None:
        self.errors.append(error)

    def silent(self, silent_s: float) -> None:
        self.silent_s = silent_s

    def gone(self, reason: str) -> None:
        self.reasons.append(reason)
        self.gone_at = time.monotonic()


class Client:
    """The calling side: aiortc with a microphone, optionally a camera m-line, and a channel."""

    def __init__(self, *, audio: int = 1, video: int = 0, channel: bool = True) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.received: list[str] = []
        self.channel: RTCDataChannel | None = None
        self._consumers: set[asyncio.Task[None]] = set()
        for _ in range(audio):
            self.pc.addTrack(SilentTrack())
        for _ in range(video):
            self.pc.addTransceiver("video", direction="recvonly")
        if channel:
            self.channel = self.pc.createDataChannel("oai-events")
            self.channel.on("message", self.received.append)
        self.pc.on("track", self._consume)

    def _consume(self, track: MediaStreamTrack) -> None:
        async def drain() -> None:
            while True:
                await track.recv()

        self._consumers.add(asyncio.create_task(drain()))

    async def offer(self) -> str:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return self.pc.localDescription.sdp

    async def accept(self, answer: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))

    async def call(self, peer: Peer, edit: Callable[[str], str] = lambda sdp: sdp) -> str:
        answer = await peer.answer(edit(await self.offer()), downlink=SilentTrack())
        await self.accept(answer)
        return answer

    def vanish(self) -> None:
        """Stop talking without a word, as a phone out of reach does."""
        for protocol in self._protocols():
            protocol.transport.sendto = lambda *args: None

    def come_back(self) -> None:
        """Talk again after vanish()."""
        for protocol in self._protocols():
            del protocol.transport.sendto

    def die(self) -> None:
        """Close the sockets without a word, as the kernel does for a killed process."""
        for protocol in self._protocols():
            protocol.transport._sock.close()
            protocol.transport.abort()
            protocol.transport.sendto = lambda *args: None

    def say(self, text: str) -> None:
        """Send it as soon as the channel is open here, which the other side may know sooner."""
        channel = self.channel
        assert channel is not None
        if channel.readyState == "connecting":
            channel.once("open", lambda: channel.send(text))
        else:
            channel.send(text)

    def _protocols(self) -> list[Any]:
        senders = self.pc.getSenders()
        return [p for s in senders for p in s.transport.transport._connection._protocols]

    async def close(self) -> None:
        for task in self._consumers:
            task.cancel()
        await asyncio.gather(*self._consumers, return_exceptions=True)
        await self.pc.close()


def without_candidates(sdp: str) -> str:
    lines = sdp.splitlines(keepends=True)
    kept = [x for x in lines if not x.startswith(("a=candidate", "a=end-of-candidates"))]
    return "".join(kept)
