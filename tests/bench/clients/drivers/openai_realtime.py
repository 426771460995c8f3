"""The `openai` package over a WebSocket: `client.realtime.connect`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from tests.bench.clients.steps import Microphone, Report, arguments, converse, loud_s

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"about": {"type": "string"}}},
}
TURNS = {"type": "server_vad"}


class OpenAIRealtime:
    """Adapter of one connection."""

    def __init__(self, connection: Any, folder: Path) -> None:
        self.said = self.heard = ""
        self.loud_s = 0.0
        self.calls = self.interruptions = 0
        self._connection = connection
        self._microphone = Microphone(self._send, folder)
        self.say: Callable[[str], None] = self._microphone.say

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            talking = tasks.create_task(self._microphone.run())
            async for event in self._connection:
                await self._take(event)
            talking.cancel()

    async def type(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        item: Any = {"type": "message", "role": "user", "content": content}
        await self._connection.conversation.item.create(item=item)
        await self._connection.response.create()

    async def hang_up(self) -> None:
        await self._connection.close()

    async def _send(self, pcm: bytes) -> None:
        await self._connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())

    async def _take(self, event: Any) -> None:
        match event.type:
            case "response.output_audio.delta":
                self.loud_s += loud_s(base64.b64decode(event.delta))
            case "response.output_audio_transcript.delta" | "response.output_text.delta":
                self.said += event.delta
            case "conversation.item.input_audio_transcription.completed":
                self.heard += event.transcript
            case "response.done" if event.response.status == "cancelled":
                self.interruptions += 1
            case "response.function_call_arguments.done":
                self.calls += 1
                assert json.loads(event.arguments)["about"]
                item: Any = {
                    "type": "function_call_output",
                    "call_id": event.call_id,
                    "output": "sunny",
                }
                await self._connection.conversation.item.create(item=item)
                await self._connection.response.create()


async def main() -> None:
    report = Report(version("openai"))
    url, folder = arguments()
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    async with client.realtime.connect(model="omnicall") as connection:
        async with report.step("connects"):
            assert (await connection.recv()).type == "session.created"
            audio = {"input": {"turn_detection": TURNS, "transcription": {"model": "any"}}}
            session: Any = {"type": "realtime", "audio": audio, "tools": [TOOL]}
            await connection.session.update(session=session)
            while (await connection.recv()).type != "session.updated":
                pass
        adapter = OpenAIRealtime(connection, folder)
        running = asyncio.create_task(adapter.run())
        await converse(report, adapter)
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main())
