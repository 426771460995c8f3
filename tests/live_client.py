"""Clients of OpenAI Live: over a WebSocket and over WebRTC; each event is held against its type."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
from aiortc import RTCSessionDescription
from websockets.exceptions import ConnectionClosed

from tests.caller import Caller
from tests.openai_events import checked_live_event
from tests.openai_types import live_events
from tests.streamer import Streamer
from tests.waiting import PATIENCE_S

live_events()
"""Built before a call: it would stand still meanwhile."""
PATH = "/v1/live/sessions"
PIECE_S = 0.1


class LiveStreamer(Streamer):
    """A Live session over a WebSocket; `pieces` are its sound and when each came."""

    def __init__(self, url: str, *, path: str = PATH, query: str = "", **more: Any) -> None:
        super().__init__(url.partition("?")[0], path=path, query=query, **more)
        self.pieces: list[tuple[float, bytes]] = []
        self.reflected = 0

    async def __aenter__(self) -> LiveStreamer:
        await super().__aenter__()
        return self

    def _take(self, text: str) -> None:
        event = checked_live_event(text)
        if event["type"] == "session.output_audio.delta":
            self.pieces.append((time.monotonic(), base64.b64decode(event["delta"])))
        elif event["type"] == "session.input_audio.append":
            self.reflected += 1
        else:
            self.events.append(event)
        self._changed.set()

    async def start(self, **session: Any) -> dict[str, Any]:
        """Start the session; what is told of it."""
        await self.send("session.start", session={"model": "gpt-live-1", **session}, event_id="go")
        return await self.hears("session.started")

    async def speak(self, pcm: bytes, piece_bytes: int = 4_800) -> None:
        """Send sound in its time, 100 ms a message."""
        begun = time.monotonic()
        for n, at in enumerate(range(0, len(pcm), piece_bytes)):
            piece = base64.b64encode(pcm[at : at + piece_bytes]).decode()
            await self.send("session.input_audio.append", audio=piece)
            await asyncio.sleep(max(0.0, begun + (n + 1) * PIECE_S - time.monotonic()))

    @contextlib.asynccontextmanager
    async def talks(
        self, pcm: bytes = b"", piece_bytes: int = 4_800, silence: bytes = b"\0"
    ) -> AsyncIterator[None]:
        """Say this within the block, and nothing aloud from then on."""

        async def talk() -> None:
            await self.speak(pcm, piece_bytes)
            while True:
                await self.speak(silence * piece_bytes, piece_bytes)

        talking = asyncio.create_task(talk())
        try:
            yield
        finally:
            talking.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await talking

    async def has_said(
        self, words: str, kind: str = "output", timeout_s: float = PATIENCE_S
    ) -> None:
        """Wait until these words were told of one side."""
        async with asyncio.timeout(timeout_s):
            while words not in self.said(kind):
                self._changed.clear()
                await self._changed.wait()

    def said(self, kind: str = "output") -> str:
        """What was told of one side's words."""
        return "".join(event["delta"] for event in self.of(f"session.{kind}_transcript.delta"))


class LiveCaller(Caller):
    """A Live session over WebRTC."""

    def __init__(self, url: str, **session: Any) -> None:
        super().__init__(url.partition("?")[0])
        self._config = {"model": "gpt-live-1", **session}
        self.session_id = ""

    async def __aenter__(self) -> LiveCaller:
        self.pc.addTrack(self.voice)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        transport = {"type": "webrtc", "sdp": self.pc.localDescription.sdp}
        body = {"session": self._config, "transport": transport}
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{self.url}{PATH}", json=body) as answer:
                told = await answer.json()
                assert answer.status == 201, told
        self.session_id = told["session"]["id"]
        await self.pc.setRemoteDescription(
            RTCSessionDescription(told["transport"]["sdp"], "answer")
        )
        return self

    def _read(self, text: str) -> dict[str, Any]:
        return checked_live_event(text)


def loudness(pcm: bytes) -> int:
    return int(np.abs(np.frombuffer(pcm, np.int16).astype(int)).max(initial=0))
