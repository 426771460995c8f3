"""The `openai-agents` package's realtime session, over a WebSocket."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner

from tests.bench.clients.steps import Microphone, Report, arguments, converse, loud_s, until


class AgentsSession:
    """Adapter of one session."""

    def __init__(self, folder: Path) -> None:
        self.said = self.heard = self.handed_to = ""
        self.loud_s = 0.0
        self.calls = self.interruptions = 0
        self.errors: list[str] = []
        self.history: list[Any] = []
        self.session: Any = None
        self.microphone = Microphone(self._send, folder)
        self.say = self.microphone.say

    def agent(self) -> RealtimeAgent[Any]:
        """An agent with a function, which can hand over to another."""

        @function_tool  # type: ignore[untyped-decorator,unused-ignore]
        def get_weather(about: str) -> str:
            """The weather in a city."""
            self.calls += 1
            return "sunny"

        helper: RealtimeAgent[Any] = RealtimeAgent(name="Helper", instructions="Help.")
        return RealtimeAgent(
            name="Desk", instructions="Be brief.", tools=[get_weather], handoffs=[helper]
        )

    async def run(self) -> None:
        async for event in self.session:
            self._take(event)

    async def type(self, text: str) -> None:
        await self.session.send_message(text)

    async def hang_up(self) -> None:
        await self.session.close()

    async def _send(self, pcm: bytes) -> None:
        await self.session.send_audio(pcm)

    def _take(self, event: Any) -> None:
        match event.type:
            case "audio":
                self.loud_s += loud_s(event.audio.data)
            case "audio_interrupted":
                self.interruptions += 1
            case "handoff":
                self.handed_to = event.to_agent.name
            case "error":
                self.errors.append(str(event.error))
            case "history_updated":
                self.history = event.history
            case "raw_model_event":
                self._take_raw(event.data)

    def _take_raw(self, event: Any) -> None:
        match event.type:
            case "transcript_delta":
                self.said += event.delta
            case "input_audio_transcription_completed":
                self.heard += event.transcript


async def _hands_over(adapter: AgentsSession) -> None:
    await adapter.type("transfer_to_helper please")
    await until(lambda: adapter.handed_to == "Helper")


async def _remembers(adapter: AgentsSession) -> None:
    texts = str(adapter.history)
    assert all(part in texts for part in ("good morning to you", "get_weather", "sunny")), texts


async def main() -> None:
    report = Report(version("openai-agents"))
    url, folder = arguments()
    adapter = AgentsSession(folder)
    runner = RealtimeRunner(adapter.agent())
    socket = f"{url.replace('http', 'ws', 1)}/v1/realtime?model=omnicall"
    settings: Any = {"model_name": "omnicall"}
    config: Any = {"api_key": "none", "url": socket, "initial_model_settings": settings}
    async with report.step("connects"):
        adapter.session = await runner.run(model_config=config)
        await adapter.session.enter()
    tasks = [asyncio.create_task(run()) for run in (adapter.run, adapter.microphone.run)]
    more: Any = {"handoff": _hands_over, "history": _remembers}
    await converse(report, adapter, more)
    for task in tasks:
        task.cancel()
    for error in adapter.errors:
        report.note(f"error: {error}")


if __name__ == "__main__":
    asyncio.run(main())
