"""A small server of the Realtime API over WebSockets, which says what a test wants."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer

Event = dict[str, Any]
KEY = "right-key"
SPOKEN = np.arange(2400, dtype=np.int16)
"""0.1 s, said in each answer."""


class FakeServer:
    """One connection at a time; `received` is what the client sent, in order.

    An answer is `says` in words and `SPOKEN` in sound, after `calls` (name, arguments).
    """

    def __init__(self) -> None:
        self.url = ""
        self.received: list[Event] = []
        self.says = "It is noon."
        self.calls: list[tuple[str, str]] = []
        self.serves = True
        self.on_event: Callable[[Event], Awaitable[None]] | None = None
        self._socket = web.WebSocketResponse()
        self._changed = asyncio.Event()
        self._responses = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "No."}}, status=401)
        self._socket = web.WebSocketResponse()
        await self._socket.prepare(request)
        if self.serves:
            await self.tell("session.created", session={"id": "rtc_1", "type": "realtime"})
        async for message in self._socket:
            event = json.loads(message.data)
            self.received.append(event)
            self._changed.set()
            await (self.on_event or self.answer)(event)
        return self._socket

    async def tell(self, kind: str, **fields: Any) -> None:
        await self._socket.send_str(json.dumps({"type": kind, **fields}))

    async def answer(self, event: Event) -> None:
        match event["type"]:
            case "session.update":
                await self.tell("session.updated", session=event["session"])
            case "response.create":
                await self._respond()

    async def hang_up(self, code: int) -> None:
        await self._socket.close(code=code)

    async def gets(self, kind: str, count: int = 1) -> Event:
        """Wait for the `count`th event of a type from the client."""
        async with asyncio.timeout(5):
            while len(found := [e for e in self.received if e["type"] == kind]) < count:
                self._changed.clear()
                await self._changed.wait()
        return found[count - 1]

    async def speak(self, response_id: str, item_id: str) -> None:
        delta = base64.b64encode(SPOKEN.tobytes()).decode()
        await self.tell(
            "response.output_audio.delta", response_id=response_id, item_id=item_id, delta=delta
        )

    async def _respond(self) -> None:
        self._responses += 1
        response_id, item_id = f"resp_{self._responses}", f"item_{self._responses}"
        await self.tell("response.created", response={"id": response_id})
        calls, self.calls = self.calls, []
        output: list[Event] = [
            {
                "type": "function_call",
                "status": "completed",
                "call_id": f"call_{index}",
                "name": name,
                "arguments": arguments,
            }
            for index, (name, arguments) in enumerate(calls)
        ]
        if not calls:
            await self.speak(response_id, item_id)
            for kind, words in (("delta", {"delta": "It is"}), ("done", {"transcript": self.says})):
                await self.tell(
                    f"response.output_audio_transcript.{kind}", item_id=item_id, **words
                )
            content = [{"type": "output_audio", "transcript": self.says}]
            output = [{"type": "message", "id": item_id, "content": content}]
        response = {"id": response_id, "status": "completed", "output": output}
        await self.tell("response.done", response=response)


@asynccontextmanager
async def fake_server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    app = web.Application()
    app.router.add_get("/prefix/v1/realtime", fake.handle)
    server = TestServer(app)
    await server.start_server()
    fake.url = str(server.make_url("/prefix/"))
    try:
        yield fake
    finally:
        await server.close()
