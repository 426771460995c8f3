"""A call over WebRTC: sound as Opus, events on a data channel. Needs aiortc."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from omnicall.client.address import Address
from omnicall.client.carrier import Callbacks, Event
from omnicall.client.errors import CallOver, NoConnection
from omnicall.client.sound import RATE, Resampling, Unsaid, frame_of

FRAME = RATE // 50
TAIL_S = 0.2
"""Events are faster than sound, which waits in an encoder and in the server's jitter buffer."""
CONNECT_TIMEOUT_S = 15.0
CHECK_EVERY_S = 3.0
"""When the process that carries the call dies, nothing more comes: only asking the server tells."""
LOOK_S = 0.1
ASK_S = 0.4
"""After so much silence it is asked at once."""
QUIET_S = 1.5
"""After so much it may be there while the way to it is not."""
RECONNECT_TIMEOUT_S = 5.0
MAX_EVENT_BYTES = 200 * 1024
"""A message on the data channel; larger items go over HTTP."""


class PeerCarrier:
    """One peer connection. Load tests send other `tracks`, and `hear` without decoding."""

    def __init__(self, address: Address, voice: Unsaid, listener: Callbacks) -> None:
        self.tracks: list[MediaStreamTrack] = [Microphone(voice)]
        """What is sent."""
        self.heard_at = 0.0
        """By the loop's clock."""
        self._address = address
        self._listener = listener
        self._end: asyncio.Future[CallOver] = asyncio.get_running_loop().create_future()
        self._open = asyncio.Event()
        self._track: MediaStreamTrack | None = None
        self._tracked = asyncio.Event()
        self.pc: RTCPeerConnection | None = None
        self.channel: Any = None
        self.call_id = ""
        self.token = ""
        self.audio_settings: dict[str, Any] = {}
        self.tail_s = TAIL_S

    async def open(self, session: Event, token: str = "") -> bool:
        info = await self._address.info()
        servers = [_ice_server(told) for told in info.get("ice_servers", [])]
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self.pc.on("track", self._on_track)
        self.pc.on("connectionstatechange", self._on_state)
        self.channel = self.pc.createDataChannel("oai-events")
        self.channel.on("open", self._open.set)
        self.channel.on("message", self._on_message)
        self.channel.on("close", self._on_close)
        for track in self.tracks:
            self.pc.addTrack(track)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        answer = await self._address.offer(self.pc.localDescription.sdp, session, token)
        sdp, self.call_id, self.token = answer
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        try:
            async with asyncio.timeout(RECONNECT_TIMEOUT_S if token else CONNECT_TIMEOUT_S):
                await self._open.wait()
        except TimeoutError as error:
            words = "The server answered, but no media connection opened; is UDP blocked?"
            raise NoConnection(words) from error
        return True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._hear()), group.create_task(self._check())]
            end = await self._end
            for task in tasks:
                task.cancel()
        raise end

    async def send(self, event: Event) -> None:
        if self.channel is None or self.channel.readyState != "open":
            raise CallOver("lost", "The connection is closed.")
        self.channel.send(json.dumps(event))

    async def add_item(self, item: Event) -> None:
        event = {"type": "conversation.item.create", "item": item}
        if len(json.dumps(event)) <= MAX_EVENT_BYTES:
            await self.send(event)
        else:
            await self._address.add_item(self.call_id, item)

    async def interrupt(self) -> None:
        await self.send({"type": "output_audio_buffer.clear"})
        await self.send({"type": "response.cancel"})

    async def close(self) -> None:
        is_over = self._end.done() and self._end.result().reason != "lost"
        if self.call_id and not is_over:
            await self._address.hang_up(self.call_id)
        await self.drop()

    async def drop(self) -> None:
        for track in self.tracks:
            track.stop()
        if self.pc is not None:
            await self.pc.close()

    def _finish(self, reason: str, message: str) -> None:
        if not self._end.done():
            self._end.set_result(CallOver(reason, message))

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._track = track
            self._tracked.set()

    def _on_state(self) -> None:
        if self.pc is not None and self.pc.connectionState in ("failed", "closed"):
            self._finish("lost", "The connection was lost.")

    def _on_close(self) -> None:
        self._finish("lost", "The connection was closed.")

    def _on_message(self, text: str) -> None:
        event = json.loads(text)
        self._listener.event(event)
        if event.get("type") == "session.ended":
            self._finish(str(event.get("reason")), str(event.get("message")))

    async def _hear(self) -> None:
        await self._tracked.wait()
        assert self._track is not None
        await self.hear(self._track)

    async def hear(self, track: MediaStreamTrack) -> None:
        """Pass on what is heard, until that ends; keeps `heard_at`."""
        resampler = Resampling(RATE)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            self.heard_at = asyncio.get_running_loop().time()
            if isinstance(frame, AudioFrame) and len(pcm := resampler.feed(frame)):
                self._listener.sound(pcm)

    async def _check(self) -> None:
        loop = asyncio.get_running_loop()
        checked_at = self.heard_at = loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            # Sound comes each 20 ms, be it silence.
            is_quiet = self._tracked.is_set() and loop.time() - self.heard_at > ASK_S
            if loop.time() - checked_at < (ASK_S if is_quiet else CHECK_EVERY_S):
                continue
            checked_at = loop.time()
            try:
                is_there = await self._address.check(self.call_id, QUIET_S)
            except CallOver as end:
                self._finish(end.reason, str(end))
                return
            if is_there and loop.time() - self.heard_at > QUIET_S and is_quiet:
                self._finish("lost", "The connection was lost.")
                return


class Microphone(MediaStreamTrack):
    """Says what the voice has, silence otherwise, 20 ms at a time on an absolute clock."""

    kind = "audio"

    def __init__(self, voice: Unsaid) -> None:
        super().__init__()
        self._voice = voice
        self._start: float | None = None
        self._pts = 0

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        if self._start is None:
            self._start = loop.time()
        await asyncio.sleep(max(0.0, self._start + self._pts / RATE - loop.time()))
        frame = frame_of(self._voice.take(FRAME), RATE, self._pts)
        self._pts += FRAME
        return frame


def _ice_server(told: dict[str, Any]) -> RTCIceServer:
    return RTCIceServer(told["urls"], told.get("username"), told.get("credential"))
