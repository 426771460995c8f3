"""A client over a WebSocket: sends events, keeps and checks those of the server."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from types import TracebackType
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.openai_events import checked_event
from tests.speech import DATA, read_wav, resample
from tests.waiting import PATIENCE_S

HZ = 24_000
CHUNK = HZ // 50


def speech(name: str, hz: int = HZ) -> np.ndarray:
    """An utterance of tests/engine/data with silence around it, int16."""
    rate, samples = read_wav(DATA / f"{name}.wav")
    pcm = (resample(samples, rate, hz) * 32767).astype(np.int16)
    return np.concatenate([np.zeros(hz // 2, np.int16), pcm, np.zeros(hz, np.int16)])


class Streamer:
    """A session in a `with` block; `events` are the server's, in order, the sound taken out."""

    def __init__(
        self,
        url: str,
        *,
        query: str = "model=omnicall",
        path: str = "/v1/realtime",
        headers: dict[str, str] | None = None,
        protocols: list[str] | None = None,
        tls: ssl.SSLContext | None = None,
        extensions: frozenset[str] = frozenset(),
    ) -> None:
        self._url = f"{url.rstrip('/').replace('http', 'ws', 1)}{path}?{query}"
        self._headers = headers or {}
        self._protocols: Any = protocols
        self._tls = tls
        self._extensions = extensions
        self.events: list[dict[str, Any]] = []
        self.sound = b""
        self.close_code: int | None = None
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.socket: ClientConnection

    async def __aenter__(self) -> Streamer:
        self.socket = await connect(
            self._url,
            additional_headers=self._headers,
            subprotocols=self._protocols,
            ssl=self._tls,
            max_size=None,
            ping_interval=None,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.socket.close()
        assert self._reader is not None
        await self._reader

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                self._take(str(text))
        except ConnectionClosed:
            pass
        self.close_code = self.socket.close_code
        self._changed.set()

    def _take(self, text: str) -> None:
        event = checked_event(text, self._extensions)
        if event["type"] == "response.output_audio.delta":
            self.sound += base64.b64decode(event["delta"])
        self.events.append(event)
        self._changed.set()

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def type(self, text: str, **options: Any) -> None:
        """Send a typed message and ask for the answer."""
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        await self.send("conversation.item.create", item=item)
        await self.send("response.create", response=options)

    async def say(self, sound: bytes, chunk_bytes: int = 2 * CHUNK * 5) -> None:
        """Append sound, as fast as it goes."""
        for at in range(0, len(sound), chunk_bytes):
            piece = base64.b64encode(sound[at : at + chunk_bytes]).decode()
            await self.send("input_audio_buffer.append", audio=piece)

    async def hears(
        self, kind: str, *, count: int = 1, timeout_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Wait for the `count`th event of a type."""
        async with asyncio.timeout(timeout_s):
            while len(found := self.of(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
                assert self.close_code is None or len(self.of(kind)) >= count, self.types
        return found[count - 1]

    async def is_over(self, timeout_s: float = PATIENCE_S) -> int | None:
        """Wait for the end; the code of the close."""
        async with asyncio.timeout(timeout_s):
            while self.close_code is None:
                self._changed.clear()
                await self._changed.wait()
        return self.close_code
