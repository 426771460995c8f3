"""A process with callers of the benchmark of calls: real aiortc peers that send prepared packets.

They decode nothing: what the server sends while it is silent is one constant packet, so that where
sound begins and ends shows without. Some of them speak over the answers.
"""

from __future__ import annotations

import asyncio
import fractions
import random
import time
import wave
from typing import Any

import aiohttp
import av
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtpPacket

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
from media.opus import SILENT_PACKET, OpusEncoder
from tests import ROOT
from tests.bench.media_wire import Handler, serve

CAMERA = (640, 480)
CAMERA_FPS = 2
PICTURES = 6
SOUND_S = 4.0
TURN_PAUSE_S = 0.1
"""Sound after at least so much silence is the beginning of a turn."""
LATE_S = 0.06
"""A packet that comes so long after the one before is late: a caller's buffer has run dry."""
SPEAK_OVER_S = (6.0, 12.0)
"""Pauses of those who speak over answers."""
SPOKEN = ROOT / "tests" / "engine" / "data" / "tell_story.wav"
"""What they say then. A made voice with an even rhythm would be taken for the echo of an answer."""
GIVE_UP_S = 3.0


def opus_packets(pcm: bytes, hz: int = DOWNLINK_HZ) -> list[bytes]:
    """20 ms each."""
    encoder = OpusEncoder(hz)
    size = SAMPLE_BYTES * hz * PTIME_MS // 1000
    return [encoder.encode(pcm[i : i + size]) for i in range(0, len(pcm) - size + 1, size)]


def spoken() -> list[bytes]:
    """A sentence."""
    with wave.open(str(SPOKEN)) as file:
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
        self._index = 0
        self._over = 0
        self._unsubscribe = ticker.subscribe(self._tick.set)

    def speak_over(self) -> None:
        self._over = len(self._loud)

    async def recv(self) -> av.Packet[Any]:
        await self._tick.wait()
        self._tick.clear()
        payload = (
            self._loud[-self._over] if self._over else self._quiet[self._index % len(self._quiet)]
        )
        self._over = max(0, self._over - 1)
        packet: av.Packet[Any] = av.Packet(payload)
        packet.pts = self._index * RTP_OPUS_PACKET_TICKS
        packet.time_base = fractions.Fraction(1, RTP_OPUS_HZ)
        self._index += 1
        return packet

    def stop(self) -> None:
        super().stop()
        self._unsubscribe()


class Caller:
    """One call and what came of it; times are of the monotonic clock, which all processes share."""

    def __init__(self, voice: Voice, camera: Camera | None, *, speaks_over: bool) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.call_id = ""
        self.failed = ""
        self.packets = self.gaps = self.silent = self.unhushed = 0
        self.worst_s = 0.0
        self.late: list[float] = []
        self.onsets: list[float] = []
        """When sound began after a silence."""
        self.hushed_s: list[float] = []
        """From the first word over an answer until it was silent."""
        self._voice, self._speaks_over = voice, speaks_over
        self._last: tuple[int, int, float] | None = None
        self._quiet_since = 0.0
        self._is_loud = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.pc.addTrack(voice)
        if camera is not None:
            self.pc.addTrack(camera)
        self.pc.on("track", self._on_track)

    async def call(self, url: str) -> None:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        headers = {"Content-Type": "application/sdp"}
        async with aiohttp.ClientSession() as http:
            address = f"{url.rstrip('/')}/v1/realtime/calls"
            body = self.pc.localDescription.sdp
            async with http.post(address, data=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status != 201:
                    self.failed = f"{answer.status} {text[:200]}"
                    return
                self.call_id = answer.headers["Location"].rpartition("/")[2]
        await self.pc.setRemoteDescription(RTCSessionDescription(text, "answer"))
        if self._speaks_over:
            self._task = asyncio.create_task(self._speak_over())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self.pc.close()

    def result(self) -> dict[str, Any]:
        state = self.pc.connectionState
        return {
            "call_id": self.call_id,
            "failed": self.failed or ("" if state == "connected" else f"the connection is {state}"),
            "packets": self.packets,
            "silent": self.silent,
            "gaps": self.gaps,
            "late": self.late,
            "worst_ms": round(self.worst_s * 1000, 1),
            "onsets": self.onsets,
            "unhushed": self.unhushed,
            "hushed_ms": [round(s * 1000, 1) for s in self.hushed_s],
        }

    def mark(self) -> None:
        """Count from here on."""
        self.packets = self.gaps = self.silent = self.unhushed = 0
        self.worst_s = 0.0
        self.late, self.onsets, self.hushed_s = [], [], []

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind != "audio":
            return
        receiver = next(r for r in self.pc.getReceivers() if r.track is track)
        hooks.take_audio(receiver, self._heard)

    def _heard(self, packet: RtpPacket, codec: str) -> None:
        del codec
        now = time.monotonic()
        self.packets += 1
        if self._last is not None:
            sequence, timestamp, at = self._last
            follows = packet.sequence_number == (sequence + 1) & 0xFFFF
            is_next = packet.timestamp == (timestamp + RTP_OPUS_PACKET_TICKS) & 0xFFFFFFFF
            self.gaps += not (follows and is_next)
            self.worst_s = max(self.worst_s, now - at)
            if now - at > LATE_S:
                self.late.append(now)
        self._last = packet.sequence_number, packet.timestamp, now
        is_loud = packet.payload != SILENT_PACKET
        self.silent += not is_loud
        if is_loud == self._is_loud:
            return
        self._is_loud = is_loud
        if not is_loud:
            self._quiet_since = now
        elif now - self._quiet_since > TURN_PAUSE_S:
            self.onsets.append(now)
        self._changed.set()

    async def _until(self, is_loud: bool) -> None:
        while self._is_loud != is_loud:
            self._changed.clear()
            await self._changed.wait()

    async def _speak_over(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*SPEAK_OVER_S))
            await self._until(is_loud=True)
            await asyncio.sleep(0.5)
            if not self._is_loud:
                continue
            begun = time.monotonic()
            self._voice.speak_over()
            try:
                async with asyncio.timeout(GIVE_UP_S):
                    await self._until(is_loud=False)
            except TimeoutError:
                self.unhushed += 1
            else:
                self.hushed_s.append(time.monotonic() - begun)


class Client:
    """All callers of a process, commanded line by line; needs a running loop."""

    def __init__(self) -> None:
        self._callers: list[Caller] = []
        self._ticker = Ticker(phases=4)
        self._quiet, self._loud = murmur(), spoken()
        self._pictures = keyframes()

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["command"]:
            case "call":
                camera = None
                if request["camera"]:
                    camera = Camera(self._pictures, random.random() / CAMERA_FPS)
                voice = Voice(self._quiet, self._loud, self._ticker)
                caller = Caller(voice, camera, speaks_over=request["speaks_over"])
                self._callers.append(caller)
                await caller.call(request["url"])
                return {"failed": caller.failed}
            case "mark":
                for caller in self._callers:
                    caller.mark()
            case "result":
                return {"calls": [caller.result() for caller in self._callers]}
            case "leave":
                leaving, self._callers = self._callers, []
                await asyncio.gather(*(caller.close() for caller in leaving))
            case "stop":
                await asyncio.gather(*(caller.close() for caller in self._callers))
                self._ticker.close()
        return {}


def make_handler() -> Handler:
    """The command handler of a client process; needs a running loop."""
    return Client().handle


def main() -> None:
    """Run until told to stop."""
    serve(make_handler, fast_loop=True)


if __name__ == "__main__":
    main()
