"""LiveKit's `AgentSession` without a room, with its model for Realtime or for OpenAI Live.

python -m tests.bench.clients.drivers.livekit_agents URL FOLDER realtime|live
"""

from __future__ import annotations

import asyncio
import sys
import time
from importlib.metadata import version
from typing import Any

from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice import io
from livekit.plugins.openai.realtime import GPTLiveModel, RealtimeModel

from tests.bench.clients.steps import HZ, Microphone, Report, arguments, converse, loud_s


class Ear(io.AudioInput):  # type: ignore[misc,unused-ignore]
    """The microphone of the agent."""

    def __init__(self) -> None:
        super().__init__(label="bench")
        self._frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()

    async def put(self, pcm: bytes) -> None:
        await self._frames.put(rtc.AudioFrame(pcm, HZ, 1, len(pcm) // 2))

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.get()


class Loudspeaker(io.AudioOutput):  # type: ignore[misc,unused-ignore]
    """Plays in real time, to nobody; counts what was loud and how often it was cut."""

    def __init__(self) -> None:
        capabilities = io.AudioOutputCapabilities(pause=False)
        super().__init__(label="bench", capabilities=capabilities, sample_rate=HZ)
        self.loud_s = 0.0
        self.interruptions = 0
        self.segments = 0
        self._ends = self._begun = 0.0
        self._end: asyncio.Task[None] | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        now = time.monotonic()
        if self._ends == 0.0:
            self._begun = self._ends = now
            self.on_playback_started(created_at=time.time())
        self._ends = max(self._ends, now) + frame.duration
        self.loud_s += loud_s(bytes(frame.data), frame.sample_rate)
        await asyncio.sleep(max(0.0, self._ends - 0.3 - now))

    def flush(self) -> None:
        super().flush()
        if self._ends:
            self.segments += 1
            self._end = asyncio.create_task(self._finish(self._ends - time.monotonic()))

    def clear_buffer(self) -> None:
        if self._ends:
            if self._end is not None:
                self._end.cancel()
            self.interruptions += 1
            self._over(True)

    async def _finish(self, wait_s: float) -> None:
        await asyncio.sleep(max(0.0, wait_s))
        self._over(False)

    def _over(self, interrupted: bool) -> None:
        played_s = min(time.monotonic(), self._ends) - self._begun
        self._ends, self._end = 0.0, None
        self.on_playback_finished(playback_position=played_s, interrupted=interrupted)


class LiveKitAgent:
    """Adapter of one agent session."""

    def __init__(self, model: Any) -> None:
        self.said = self.heard = ""
        self.calls = 0
        self.errors: list[str] = []
        self._ear = Ear()
        self._voice = Loudspeaker()
        self.session: AgentSession[None] = AgentSession(llm=model)
        self.session.input.audio = self._ear
        self.session.output.audio = self._voice
        self.session.output.transcription = Caption(self)
        self.session.on("user_input_transcribed", self._hear)
        self.session.on("error", lambda event: self.errors.append(str(event.error)))

    @property
    def loud_s(self) -> float:
        return self._voice.loud_s

    @property
    def interruptions(self) -> int:
        return self._voice.interruptions

    async def start(self, folder: Any) -> Microphone:
        @function_tool  # type: ignore[untyped-decorator,unused-ignore]
        async def get_weather(about: str) -> str:
            """The weather in a city."""
            self.calls += 1
            return "sunny"

        await self.session.start(Agent(instructions="Be brief.", tools=[get_weather]))
        microphone = Microphone(self._ear.put, folder, ms=20)
        self.say = microphone.say
        return microphone

    async def type(self, text: str) -> None:
        self.session.generate_reply(user_input=text)

    async def hang_up(self) -> None:
        await self.session.aclose()

    def _hear(self, event: Any) -> None:
        if event.is_final:
            self.heard += event.transcript


class LiveKitLive(LiveKitAgent):
    """Live has no messages: what is to be answered goes in as instructions."""

    @property
    def interruptions(self) -> int:
        """Nothing tells it of one: the stretch of sound just ends."""
        return self._voice.interruptions + self._voice.segments

    async def type(self, text: str) -> None:
        self.session.generate_reply(instructions=text)


class Caption(io.TextOutput):  # type: ignore[misc,unused-ignore]
    """Where the agent shows what it says."""

    def __init__(self, adapter: LiveKitAgent) -> None:
        super().__init__(label="bench", next_in_chain=None)
        self._adapter = adapter

    async def capture_text(self, text: str) -> None:
        self._adapter.said += text

    def flush(self) -> None:
        pass


async def main() -> None:
    report = Report(version("livekit-agents"))
    url, folder = arguments()
    kind = sys.argv[3]
    adapter: LiveKitAgent
    if kind == "live":
        adapter = LiveKitLive(GPTLiveModel(base_url=f"{url}/v1", api_key="none"))
    else:
        adapter = LiveKitAgent(RealtimeModel(base_url=f"{url}/v1", api_key="none"))
    async with report.step("connects"):
        microphone = await adapter.start(folder)
    talking = asyncio.create_task(microphone.run())
    await converse(report, adapter)
    talking.cancel()
    for error in adapter.errors:
        report.note(f"error: {error}")


if __name__ == "__main__":
    asyncio.run(main())
