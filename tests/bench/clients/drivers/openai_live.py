"""The `openai` package with OpenAI Live: `client.live.connect`, and a sideband that joins."""

from __future__ import annotations

import asyncio
import base64
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from tests.bench.clients.steps import Microphone, Pauses, Report, arguments, converse, loud_s, until

TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


class OpenAILive:
    """Adapter of one session. Typed text goes in as commentary: Live has no messages."""

    def __init__(self, connection: Any, folder: Path) -> None:
        self.said = self.heard = ""
        self.loud_s = 0.0
        self.calls = 0
        self.errors: list[str] = []
        self.closed = ""
        self._has_called = False
        self._connection = connection
        self._pauses = Pauses()
        self.microphone = Microphone(self._send, folder)

    @property
    def interruptions(self) -> int:
        return self._pauses.count

    def say(self, name: str) -> None:
        self.microphone.say(name)

    async def run(self) -> None:
        async for event in self._connection:
            await self._take(event)

    async def type(self, text: str) -> None:
        append: Any = {"content": text, "delegation_id": None}
        await self._connection.session.commentary.append(**append)

    async def hang_up(self) -> None:
        await self._connection.session.close()
        await until(lambda: self.closed)

    async def _send(self, pcm: bytes) -> None:
        await self._connection.session.input_audio.append(audio=base64.b64encode(pcm).decode())

    async def _take(self, event: Any) -> None:
        match event.type:
            case "session.output_audio.delta":
                pcm = base64.b64decode(event.delta)
                self.loud_s += loud_s(pcm)
                self._pauses.add(pcm)
            case "session.output_transcript.delta":
                self.said += event.delta
            case "session.input_transcript.delta":
                self.heard += event.delta
            case "response.event":
                await self._take_nested(event.event)
            case "error":
                self.errors.append(str(event.error))
            case "session.closed":
                self.closed = event.reason

    async def _take_nested(self, event: Any) -> None:
        """Give back what a function found, and go on once the model has written all calls."""
        found = event.get("item", {})
        is_done = event["type"] == "response.output_item.done"
        if is_done and found["type"] == "function_call":
            self.calls += 1
            output = {"type": "function_call_output", "call_id": found["call_id"]}
            item: Any = output | {"output": "sunny"}
            await self._connection.response.item.create(item=item)
            self._has_called = True
        elif event["type"] == "response.completed" and self._has_called:
            self._has_called = False
            await self._connection.response.create()


async def main() -> None:
    report = Report(version("openai"))
    url, folder = arguments()
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    async with client.live.connect() as connection:
        async with report.step("connects"):
            delegation = {"type": "responses", "responses": {"model": "any", "tools": [TOOL]}}
            session: Any = {"model": "omnicall", "delegation": delegation}
            await connection.session.start(session=session)
            started: Any = await connection.recv()
            assert started.type == "session.started", started
        adapter = OpenAILive(connection, folder)
        tasks = [asyncio.create_task(run()) for run in (adapter.run, adapter.microphone.run)]
        async with report.step("sideband"):
            async with client.live.sideband.connect(session_id=started.session.id) as side:
                assert (await side.recv()).type == "session.started"
        await converse(report, adapter)
        for task in tasks:
            task.cancel()
    for error in adapter.errors:
        report.note(f"error: {error}")


if __name__ == "__main__":
    asyncio.run(main())
