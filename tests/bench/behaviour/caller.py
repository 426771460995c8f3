"""A caller of the behaviour bench: a real aiortc peer whose two directions lie on one clock."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import Any

import aiohttp
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from media import hooks
from media.opus import OpusDecoder
from tests.bench.behaviour.sounds import FRAME, RATE, Sound

PACKET_S = 0.02
QUIET_DB = -54.0
"""What is weaker is not heard as speech."""
OPEN_S = 20.0
Event = dict[str, Any]


class Mouth(MediaStreamTrack):
    """Sends what is said, a quiet room otherwise, 20 ms at a time on an absolute clock.

    `echo` gives what is heard back, so late (s) and so loud (dB): a caller with loudspeakers.
    """

    kind = "audio"

    def __init__(self, ear: Ear) -> None:
        super().__init__()
        self._ear = ear
        self._rng = np.random.default_rng(7)
        self._begun: float | None = None
        self._index = 0
        self._unsaid: list[tuple[Sound, asyncio.Future[float]]] = []
        self._now: Sound = np.zeros(0, np.float32)
        self.echo: tuple[float, float] | None = None

    def say(self, sound: Sound) -> asyncio.Future[float]:
        """Say it, behind what is being said; gives the time of its first sample when it is sent."""
        begun: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._unsaid.append((sound, begun))
        return begun

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        due = self._begun + self._index * PACKET_S
        await asyncio.sleep(max(0.0, due - now))
        if time.monotonic() - due > 0.2:
            # This machine stood still; nobody speaks faster for it.
            self._begun = time.monotonic() - self._index * PACKET_S
            due = self._begun + self._index * PACKET_S
        if not len(self._now) and self._unsaid:
            self._now, begun = self._unsaid.pop(0)
            # The first sample of a frame was spoken 20 ms before the frame is whole.
            begun.set_result(max(due, time.monotonic()) - PACKET_S)
        out = (self._rng.standard_normal(FRAME) * 10**-3.6).astype(np.float32)
        said, self._now = self._now[:FRAME], self._now[FRAME:]
        out[: len(said)] += said
        if self.echo is not None:
            out += self._ear.heard_at(due - PACKET_S - self.echo[0]) * 10 ** (self.echo[1] / 20)
        pcm = (np.clip(out, -1, 1) * 32767).astype(np.int16)
        frame = AudioFrame.from_ndarray(pcm[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, self._index * FRAME
        self._index += 1
        return frame


class Ear:
    """What was heard: the packets by the time they came, decoded."""

    def __init__(self) -> None:
        self._decoder = OpusDecoder(RATE)
        self.packets: list[tuple[float, float, Sound]] = []
        """When it came, its level in dBFS, and its sound."""
        self.stamps: deque[tuple[float, int]] = deque(maxlen=100_000)
        """When packets came, and their RTP timestamps."""

    def take(self, packet: hooks.AudioPacket, codec: str) -> None:
        del codec
        self.stamps.append((time.monotonic(), packet.timestamp))
        pcm = np.frombuffer(self._decoder.decode(packet.payload), np.int16) / 32768
        level = 10 * np.log10(float(np.mean(pcm**2)) + 1e-9)
        self.packets.append((time.monotonic(), level, pcm.astype(np.float32)))
        del self.packets[:-15_000]

    def heard_at(self, when: float) -> Sound:
        """The packet that was playing at a time."""
        for came, _, pcm in reversed(self.packets):
            if came <= when:
                return pcm[:FRAME] if when - came < 0.06 else np.zeros(FRAME, np.float32)
        return np.zeros(FRAME, np.float32)

    def loud(self, since: float, until: float) -> list[float]:
        """When packets with speech came."""
        return [t for t, level, _ in self.packets if since <= t < until and level > QUIET_DB]

    def level(self, since: float, until: float) -> float:
        power = [10 ** (db / 10) for t, db, _ in self.packets if since <= t < until]
        return float(10 * np.log10(np.mean(power))) if power else -90.0


class Caller:
    """One call, in an `async with` block, which returns when the session is there."""

    def __init__(self, url: str, session: Event) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self.ear = Ear()
        self.mouth = Mouth(self.ear)
        self.events: list[tuple[float, Event]] = []
        self._news = asyncio.Event()
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel: Any = None

    async def __aenter__(self) -> Caller:
        pc = self._pc
        pc.addTrack(self.mouth)
        self._channel = pc.createDataChannel("oai-events")
        self._channel.on("message", self._on_message)
        pc.on("track", self._on_track)
        await pc.setLocalDescription(await pc.createOffer())
        form = aiohttp.FormData()
        form.add_field("sdp", pc.localDescription.sdp, content_type="application/sdp")
        form.add_field("session", json.dumps(self._session), content_type="application/json")
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{self._url}/v1/realtime/calls", data=form) as answer:
                text = await answer.text()
                if answer.status != 201:
                    raise RuntimeError(f"the call was refused: {answer.status} {text[:300]}")
        await pc.setRemoteDescription(RTCSessionDescription(text, "answer"))
        await self.event("session.created", OPEN_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pc.close()

    def send(self, kind: str, **fields: Any) -> None:
        self._channel.send(json.dumps({"type": kind, **fields}))

    def ask(self, text: str) -> None:
        """Type something and have it answered."""
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        self.send("conversation.item.create", item=item)
        self.send("response.create")

    async def hush(self) -> None:
        """End what is being answered, and wait until nothing is heard."""
        self.send("response.cancel")
        self.send("output_audio_buffer.clear")
        await self.quiet(0.5)

    async def quiet(self, seconds: float, longest_s: float = 8.0) -> bool:
        """Wait until nothing was heard for so long."""
        until = time.monotonic() + longest_s
        while time.monotonic() < until:
            now = time.monotonic()
            if not self.ear.loud(now - seconds, now):
                return True
            await asyncio.sleep(0.05)
        return False

    async def speaking(self, longest_s: float) -> float | None:
        """Wait for the next sound; when it came."""
        since = time.monotonic()
        while time.monotonic() < since + longest_s:
            if found := self.ear.loud(since, time.monotonic()):
                return found[0]
            await asyncio.sleep(0.01)
        return None

    async def event(self, kind: str, longest_s: float, since: float = 0.0) -> Event | None:
        """The first event of a kind since a time; None if it does not come."""
        try:
            async with asyncio.timeout(longest_s):
                while True:
                    for at, event in self.events:
                        if at >= since and event["type"] == kind:
                            return event
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return None

    def told(self, kind: str, since: float, until: float = float("inf")) -> list[Event]:
        return [e for at, e in self.events if since <= at < until and e["type"] == kind]

    def _on_message(self, text: str) -> None:
        self.events.append((time.monotonic(), json.loads(text)))
        del self.events[:-20_000]
        self._news.set()

    def _on_track(self, track: MediaStreamTrack) -> None:
        receiver = next(r for r in self._pc.getReceivers() if r.track is track)
        hooks.take_audio(receiver, self.ear.take)
