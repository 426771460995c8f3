"""A caller without a browser: a real aiortc peer that speaks from a file and hears the answer."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
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
from pydantic import ValidationError

from omnicall.client.peer import Microphone
from omnicall.client.sound import Unsaid, as_pcm
from tests.openai_events import checked_event
from tests.speech import DATA, read_wav
from tests.waiting import PATIENCE_S

RATE = 48_000
"""Of what is heard."""


class Voice(Microphone):
    """Says what it is told to, silence otherwise."""

    def __init__(self) -> None:
        self._unsaid = Unsaid()
        super().__init__(self._unsaid)

    def say(self, name: str) -> None:
        """Append an utterance of tests/engine/data."""
        rate, samples = read_wav(DATA / f"{name}.wav")
        self._unsaid.put(as_pcm(samples, rate))


class Caller:
    """A call in a `with` block; `events` are the server's, in order."""

    def __init__(
        self,
        url: str,
        *,
        session: dict[str, Any] | None = None,
        key: str | None = None,
        door: str = "/v1/realtime/calls",
        ice: RTCConfiguration | None = None,
        resume: str | None = None,
    ) -> None:
        """`resume`: "new" asks for a token, which `token` is then; a token resumes its session."""
        self.token = resume or ""
        self._resume = {"Omnicall-Resume": resume} if resume else {}
        self.url = url.rstrip("/")
        self._door = door
        self.authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self.voice = Voice()
        self.events: list[dict[str, Any]] = []
        self.faults: list[str] = []
        """Events that are none, with what is wrong."""
        self.heard_samples = 0
        self.loud_samples = 0
        self.location = ""
        self._session = session
        self._changed = asyncio.Event()
        self._consumers: list[asyncio.Task[None]] = []
        self.pc = RTCPeerConnection(ice or RTCConfiguration(iceServers=[]))
        self.channel = self.pc.createDataChannel("oai-events")
        self.channel.on("message", self._message)
        self.pc.on("track", self._track)
        self.pc.on("connectionstatechange", self._changed.set)

    async def __aenter__(self) -> Caller:
        await self.accept(await self.offer())
        return self

    async def offer(self) -> str:
        """Post the offer; the answer, which is for `accept`."""
        self.pc.addTrack(self.voice)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        given = self.authorization | self._resume
        async with aiohttp.ClientSession(headers=given) as http:
            if self._session is None:
                headers = {"Content-Type": "application/sdp"}
                body: Any = self.pc.localDescription.sdp
            else:
                headers = {}
                body = aiohttp.FormData()
                body.add_field("sdp", self.pc.localDescription.sdp, content_type="application/sdp")
                body.add_field(
                    "session", json.dumps(self._session), content_type="application/json"
                )
            path = f"{self.url}{self._door}"
            async with http.post(path, data=body, headers=headers) as answer:
                text = await answer.text()
                assert answer.status == 201, (answer.status, text)
                self.location = answer.headers["Location"]
                self.token = answer.headers.get("Omnicall-Resume", "")
                return text

    async def accept(self, answer: str) -> None:
        """Let ICE and DTLS begin."""
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._consumers:
            task.cancel()
        await asyncio.gather(*self._consumers, return_exceptions=True)
        self.voice.stop()
        await self.pc.close()
        assert kind is not None or self.faults == [], self.faults

    def send(self, kind: str, **fields: Any) -> None:
        """Send a client event."""
        self.channel.send(json.dumps({"type": kind, **fields}))

    def type(self, text: str) -> None:
        """Send a typed message and ask for the answer."""
        content = [{"type": "input_text", "text": text}]
        self.send(
            "conversation.item.create",
            item={"type": "message", "role": "user", "content": content},
        )
        self.send("response.create")

    async def hears(
        self, kind: str, *, count: int = 1, timeout_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Wait for the `count`th event of a type."""
        async with asyncio.timeout(timeout_s):
            while True:
                found = self.of(kind)
                if len(found) >= count:
                    return found[count - 1]
                assert self.faults == [], self.faults
                self._changed.clear()
                await self._changed.wait()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def is_over(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the peer connection is closed or failed."""
        async with asyncio.timeout(timeout_s):
            while self.pc.connectionState not in ("closed", "failed"):
                self._changed.clear()
                await self._changed.wait()

    async def hang_up(self) -> int:
        """The status of POST .../hangup."""
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{self.url}{self.location}/hangup") as answer:
                return answer.status

    def vanish(self) -> None:
        """Say nothing more and hear nothing, as a phone out of reach does."""
        for protocol in self._protocols():
            protocol.transport.sendto = lambda *args: None
            protocol.datagram_received = lambda *args: None

    def reappear(self) -> None:
        for protocol in self._protocols():
            del protocol.transport.sendto
            del protocol.datagram_received

    def _protocols(self) -> list[Any]:
        senders = self.pc.getSenders()
        return [p for s in senders for p in s.transport.transport._connection._protocols]

    async def upload(self, *content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and the body of POST .../items with a user's message."""
        item = {"type": "message", "role": "user", "content": list(content)}
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{self.url}{self.location}/items", json=item) as answer:
                return answer.status, await answer.json()

    def _message(self, text: str) -> None:
        try:
            self.events.append(self._read(text))
        except (ValidationError, AssertionError) as error:
            # Raised in here it would end the data channel and not the test.
            self.faults.append(f"{text[:500]}: {error}")
        self._changed.set()

    def _read(self, text: str) -> dict[str, Any]:
        """The event, if it is what its type says."""
        return checked_event(text)

    def _track(self, track: MediaStreamTrack) -> None:
        self._consumers.append(asyncio.ensure_future(self._consume(track)))

    async def _consume(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, AudioFrame)
            self.heard_samples += frame.samples
            if int(np.abs(frame.to_ndarray()).max()) > 1000:
                self.loud_samples += frame.samples
