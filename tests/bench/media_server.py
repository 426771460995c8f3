"""The server process of the media benchmark: our peer and media classes, or aiortc as it comes."""

import asyncio
import fractions
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from media.clock import Ticker
from media.downlink import AudioDownlink
from media.formats import DOWNLINK_HZ, SAMPLE_BYTES, UPLINK_HZ
from media.playout import Playout
from media.uplink import AudioUplink
from signaling.ice import IceSettings
from signaling.peer import Peer
from tests.bench.media_wire import Handler, serve
from tests.media.peers import speech
from tests.signaling.rtc import Recorder

REFILL_BELOW_MS = 2000
STOCK_HZ = 48_000
STOCK_SAMPLES = STOCK_HZ // 50


def fail(exc: Exception) -> None:
    """End the benchmark: a failing call has no cost worth reporting."""
    raise SystemExit(f"call failed: {exc!r}")


class OurCall:
    """One call as a media worker has it, without a session: it speaks without end."""

    def __init__(self, ticker: Ticker, pcm: bytes) -> None:
        self.samples = 0
        self.times: list[tuple[int, float]] = []
        self._pcm = pcm
        self._playout = Playout(listener=self)
        self._downlink = AudioDownlink(self._playout, ticker, on_error=fail)
        self._playout.push(0, pcm)
        self._peer = Peer("bench", IceSettings(loopback="only"), Recorder())
        self._ticker = ticker
        self._uplink: AudioUplink | None = None

    async def answer(self, offer: str) -> str:
        """Answer the caller."""
        answer = await self._peer.answer(offer, downlink=self._downlink, on_receivers=self._attach)
        self._downlink.bind(self._peer.audio_sender)
        return answer

    async def close(self) -> None:
        """End the call."""
        await self._peer.close()

    def _attach(self, audio: RTCRtpReceiver | None, video: RTCRtpReceiver | None) -> None:
        del video
        assert audio is not None
        self._uplink = AudioUplink(audio, self._hear, on_error=fail)
        self._ticker.subscribe(self._uplink.poll)

    def report(self) -> dict[str, Any]:
        """Return what was heard, by packets of 20 ms since the first."""
        assert self._uplink is not None
        stats = self._uplink.stats()
        return {
            "missed_samples": 0 if self.times[-1][0] == len(self.times) - 1 else -1,
            "concealed_samples": stats["concealedSamples"],
            "fec_samples": stats["fecSamplesRecovered"],
            "late_packets": stats["packetsDiscarded"],
            "times": self.times,
        }

    def started(self, epoch: int) -> None:
        """Note nothing: the epoch never ends."""

    def progressed(self, epoch: int, samples: int) -> None:
        """Keep speech waiting."""
        if self._playout.waiting_ms < REFILL_BELOW_MS:
            self._playout.push(epoch, self._pcm)

    def drained(self, epoch: int) -> None:
        """Note nothing: the epoch never ends."""

    def _hear(self, pts: int, pcm: bytes) -> None:
        self.samples += len(np.frombuffer(pcm, np.int16))
        self.times.append((pts // 320, time.monotonic()))


class SpeechTrack(MediaStreamTrack):
    """48 kHz PCM for aiortc's own encoder, on an absolute clock."""

    kind = "audio"

    def __init__(self, pcm: bytes) -> None:
        super().__init__()
        samples = np.frombuffer(pcm, np.int16)
        self._chunks = samples[: len(samples) // STOCK_SAMPLES * STOCK_SAMPLES].reshape(
            -1, 1, STOCK_SAMPLES
        )
        self._index = 0
        self._begin_s: float | None = None

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms."""
        if self._begin_s is None:
            self._begin_s = time.monotonic()
        wait_s = self._begin_s + self._index * 0.02 - time.monotonic()
        await asyncio.sleep(max(0.0, wait_s))
        chunk = self._chunks[self._index % len(self._chunks)]
        frame = av.AudioFrame.from_ndarray(chunk, format="s16", layout="mono")
        frame.sample_rate = STOCK_HZ
        frame.pts = self._index * STOCK_SAMPLES
        frame.time_base = fractions.Fraction(1, STOCK_HZ)
        self._index += 1
        return frame


class StockCall:
    """One call as aiortc's examples do it: decoded, resampled, encoded by aiortc and PyAV."""

    def __init__(self, pcm: bytes) -> None:
        self.samples = 0
        self.times: list[tuple[int, float]] = []
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._missed_ticks = 0
        self._next_pts: int | None = None
        self._pcm = pcm
        self._task: asyncio.Task[None] | None = None

    async def answer(self, offer: str) -> str:
        """Answer the caller."""
        self._pc.on("track", self._attach)
        await self._pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self._pc.setLocalDescription(await self._pc.createAnswer())
        return self._pc.localDescription.sdp

    async def close(self) -> None:
        """End the call."""
        await self._pc.close()

    def _attach(self, track: MediaStreamTrack) -> None:
        self._task = asyncio.get_running_loop().create_task(self._listen(track))
        self._pc.addTrack(SpeechTrack(self._pcm))

    def report(self) -> dict[str, Any]:
        """Return what was heard; what aiortc left out shows as jumps of pts."""
        missed = self._missed_ticks * UPLINK_HZ // STOCK_HZ
        return {
            "missed_samples": missed,
            "concealed_samples": 0,
            "fec_samples": 0,
            "late_packets": 0,
            "times": self.times,
        }

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=UPLINK_HZ)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, av.AudioFrame) and frame.pts is not None
            if self._next_pts is not None:
                self._missed_ticks += max(0, frame.pts - self._next_pts)
            self._next_pts = frame.pts + frame.samples
            self.times.append((frame.pts // 960, time.monotonic()))
            for resampled in resampler.resample(frame):
                self.samples += resampled.to_ndarray().shape[1]


def make_handler(kind: str) -> Handler:
    """Return the command handler of a server of one kind; needs a running loop."""
    calls: list[OurCall | StockCall] = []
    ticker = Ticker()
    pcm = speech(4.0, DOWNLINK_HZ if kind == "ours" else STOCK_HZ, seed=2)
    assert len(pcm) % SAMPLE_BYTES == 0
    # The executor that aiortc encodes in, as asyncio sizes it by itself.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())

    async def answer(sdp: str) -> dict[str, Any]:
        call = OurCall(ticker, pcm) if kind == "ours" else StockCall(pcm)
        calls.append(call)
        return {"sdp": await call.answer(sdp)}

    async def handle(request: dict[str, Any]) -> dict[str, Any]:
        match request["command"]:
            case "answer":
                return await answer(request["sdp"])
            case "mark":
                usage = resource.getrusage(resource.RUSAGE_SELF)
                return {
                    "time": time.monotonic(),
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                    "switches": usage.ru_nvcsw,
                    "samples": sum(call.samples for call in calls),
                    "threads": threading.active_count(),
                    "max_rss_mb": usage.ru_maxrss // 1024,
                }
            case "heard":
                return {"calls": [call.report() for call in calls]}
        for call in calls:
            await call.close()
        ticker.close()
        return {}

    return handle


def run_server(kind: str) -> None:
    """Run the server process until it is told to stop."""
    serve(lambda: make_handler(kind), fast_loop=kind == "ours")
