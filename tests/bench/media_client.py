"""The client process of the media benchmark: sends Opus with FEC, impairs it, counts the answer."""

import asyncio
import random
import statistics
import struct
import time
from typing import Any

from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtp import RtpPacket, is_rtcp

from media import hooks
from media.clock import Ticker
from media.formats import DOWNLINK_HZ, DOWNLINK_PACKET_BYTES, RTP_OPUS_PACKET_TICKS
from media.opus import OpusEncoder
from media.uplink import AudioUplink
from tests.bench.media_wire import Handler, serve
from tests.media.peers import PacketTrack, speech


def encoded_speech(seconds: float) -> list[bytes]:
    """Return 20 ms packets with FEC."""
    encoder = OpusEncoder()
    pcm = speech(seconds, DOWNLINK_HZ)
    ends = range(0, len(pcm), DOWNLINK_PACKET_BYTES)
    return [encoder.encode(pcm[i : i + DOWNLINK_PACKET_BYTES]) for i in ends]


class Caller:
    """One call: what it sends, with losses, and what it gets."""

    def __init__(self, packets: list[bytes], ticker: Ticker, *, decodes: bool, seed: int) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.sent: list[tuple[int, float, bool]] = []
        """Index of the packet, when it was ready, whether it was dropped."""
        self.packets = 0
        self.gaps = 0
        self.intervals_s: list[float] = []
        self.loss = self.jitter_s = 0.0
        self.uplink: AudioUplink | None = None
        self._random = random.Random(seed)
        self._decodes = decodes
        self._ticker = ticker
        self._first_timestamp: int | None = None
        self._last: tuple[int, int, float] | None = None
        self._sender = self.pc.addTrack(PacketTrack(packets, ticker))
        self.pc.on("track", self._on_track)

    async def accept(self, sdp: str) -> None:
        """Take the answer and put the impairment in the way of what is sent."""
        transport: Any = self._sender.transport
        self._send = transport._send_rtp
        transport._send_rtp = self._send_impaired
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def _send_impaired(self, data: bytes) -> None:
        if is_rtcp(data):
            await self._send(data)
            return
        (timestamp,) = struct.unpack_from("!L", data, 4)
        if self._first_timestamp is None:
            self._first_timestamp = timestamp
        index = ((timestamp - self._first_timestamp) & 0xFFFFFFFF) // RTP_OPUS_PACKET_TICKS
        is_dropped = self._random.random() < self.loss
        self.sent.append((index, time.monotonic(), is_dropped))
        if is_dropped:
            return
        if self.jitter_s:
            delay_s = self._random.uniform(0, self.jitter_s)
            loop = asyncio.get_running_loop()
            loop.call_later(delay_s, lambda: loop.create_task(self._send(data)))
        else:
            await self._send(data)

    def _on_track(self, track: MediaStreamTrack) -> None:
        del track
        receiver = self.pc.getReceivers()[0]
        if self._decodes:
            self.uplink = AudioUplink(receiver, lambda pts, pcm: None, on_error=_fail)
            self._ticker.subscribe(self.uplink.poll)
        else:
            hooks.take_audio(receiver, lambda packet, codec: None)
        taken: Any = receiver
        handle = taken._handle_rtp_packet

        async def count(packet: RtpPacket, arrival_time_ms: int) -> None:
            self._count(packet)
            await handle(packet, arrival_time_ms)

        taken._handle_rtp_packet = count

    def _count(self, packet: RtpPacket) -> None:
        now = time.monotonic()
        self.packets += 1
        if self._last is not None:
            sequence, timestamp, at = self._last
            follows = packet.sequence_number == (sequence + 1) & 0xFFFF
            is_next = packet.timestamp == (timestamp + RTP_OPUS_PACKET_TICKS) & 0xFFFFFFFF
            self.gaps += not (follows and is_next)
            self.intervals_s.append(now - at)
        self._last = packet.sequence_number, packet.timestamp, now


def _fail(exc: Exception) -> None:
    raise SystemExit(f"client failed: {exc!r}")


class Client:
    """All callers, commanded line by line; needs a running loop."""

    def __init__(self) -> None:
        self._callers: list[Caller] = []
        self._ticker = Ticker(phases=4)
        self._packets = encoded_speech(4.0)

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match request["command"]:
            case "offer":
                return await self._offer()
            case "accept":
                await self._callers[-1].accept(request["sdp"])
            case "impair":
                for caller in self._callers:
                    caller.loss, caller.jitter_s = request["loss"], request["jitter_s"]
            case "mark":
                return self._mark()
            case "sent":
                return {"calls": [caller.sent for caller in self._callers]}
            case "stop":
                for caller in self._callers:
                    await caller.pc.close()
                self._ticker.close()
        return {}

    async def _offer(self) -> dict[str, Any]:
        # Only the first call pays for decoding: the client must not be the bottleneck.
        decodes = not self._callers
        caller = Caller(self._packets, self._ticker, decodes=decodes, seed=len(self._callers))
        self._callers.append(caller)
        await caller.pc.setLocalDescription(await caller.pc.createOffer())
        return {"sdp": caller.pc.localDescription.sdp}

    def _mark(self) -> dict[str, Any]:
        intervals = [i for caller in self._callers for i in caller.intervals_s]
        p99_s = statistics.quantiles(intervals, n=100)[98] if len(intervals) > 1 else 0.0
        for caller in self._callers:
            caller.intervals_s.clear()
        return {
            "time": time.monotonic(),
            "packets": sum(caller.packets for caller in self._callers),
            "gaps": sum(caller.gaps for caller in self._callers),
            "concealed": sum(
                caller.uplink.stats()["concealedSamples"]
                for caller in self._callers
                if caller.uplink is not None
            ),
            "interval_p99_ms": round(p99_s * 1000, 1),
        }


def make_handler() -> Handler:
    """Return the command handler of the client; needs a running loop."""
    return Client().handle


def run_client() -> None:
    """Run the client process until it is told to stop."""
    serve(make_handler, fast_loop=True)
