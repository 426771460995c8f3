"""pipecat's pipeline without a transport, with its service for Realtime or for OpenAI Live.

python -m tests.bench.clients.drivers.pipecat_pipeline URL FOLDER realtime|live
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from loguru import logger
from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames import frames
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.live.llm import OpenAILiveLLMService
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.services.openai.responses.llm import OpenAIResponsesLLMService

from tests.bench.clients.steps import (
    HZ,
    STORY,
    WEATHER,
    Microphone,
    Pauses,
    Report,
    arguments,
    converse,
    loud_s,
    until,
)

MIC_HZ = 16_000
PROPERTIES = {"about": {"type": "string"}}


class Watcher(FrameProcessor):  # type: ignore[misc,unused-ignore]
    """Takes note of what passes."""

    def __init__(self, adapter: PipecatPipeline) -> None:
        super().__init__()
        self._adapter = adapter

    async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self._adapter.take(frame)
        await self.push_frame(frame, direction)


class PipecatPipeline:
    """Adapter of one pipeline."""

    name = "get_weather"
    say: Callable[[str], None]

    def __init__(self, service: Any) -> None:
        self.said = self.heard = ""
        self.loud_s = 0.0
        self.calls = self.cut = 0
        self.pauses = Pauses()
        self.errors: list[str] = []
        self.is_started = False
        tool = FunctionSchema(self.name, "What is asked for.", PROPERTIES, ["about"])
        context = LLMContext([], tools=ToolsSchema(standard_tools=[tool]))
        pair = LLMContextAggregatorPair(context)
        service.register_function(self.name, self._call)
        self._before = Watcher(self)
        parts = [pair.user(), self._before, service, Watcher(self), pair.assistant()]
        pipeline = Pipeline(parts)
        params = PipelineParams(audio_in_sample_rate=MIC_HZ, audio_out_sample_rate=HZ)
        self.task = PipelineTask(pipeline, params=params, idle_timeout_secs=None)

    @property
    def interruptions(self) -> int:
        return self.cut

    async def run(self) -> None:
        await PipelineRunner(handle_sigint=False).run(self.task)

    async def start(self) -> None:
        await self.task.queue_frame(frames.LLMRunFrame())

    async def speak(self, pcm: bytes) -> None:
        await self.task.queue_frame(frames.InputAudioRawFrame(pcm, MIC_HZ, 1))

    async def type(self, text: str) -> None:
        message: Any = {"role": "user", "content": text}
        # Above the user's aggregator such a frame never reaches a realtime service.
        await self._before.push_frame(frames.LLMMessagesAppendFrame([message], run_llm=True))

    async def hang_up(self) -> None:
        await self.task.queue_frame(frames.EndFrame())

    def take(self, frame: Any) -> None:
        match frame:
            case frames.OutputAudioRawFrame(audio=pcm):
                self.loud_s += loud_s(pcm)
                self.pauses.add(pcm)
            case frames.TTSTextFrame(text=text):
                self.said += text if frame.includes_inter_frame_spaces else f" {text}"
            case frames.TranscriptionFrame(text=text):
                self.heard += text
            case frames.InterruptionFrame():
                self.cut += 1
            case frames.StartFrame():
                self.is_started = True
            case frames.ErrorFrame(error=error):
                self.errors.append(str(error))

    async def _call(self, params: Any) -> None:
        self.calls += 1
        await params.result_callback("sunny")


class PipecatLive(PipecatPipeline):
    """Its service for Live sends no text, so what is asked is said; `time` is in the question."""

    name = "time"

    @property
    def interruptions(self) -> int:
        return self.pauses.count

    async def type(self, text: str) -> None:
        self.say({WEATHER: "what_time", STORY: "tell_story"}[text])


async def main() -> None:
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    report = Report(version("pipecat-ai"))
    url, folder = arguments()
    socket = f"{url.replace('http', 'ws', 1)}/v1"
    adapter: PipecatPipeline
    leave_out: frozenset[str]
    if sys.argv[3] == "live":
        backend = OpenAILiveLLMService.ResponsesDelegation(
            settings=OpenAIResponsesLLMService.Settings(model="any")
        )
        path = f"{socket}/live/sessions"
        service: Any = OpenAILiveLLMService(base_url=path, api_key="none", delegation=backend)
        adapter, leave_out = PipecatLive(service), frozenset({"text"})
    else:
        service = OpenAIRealtimeLLMService(base_url=f"{socket}/realtime", api_key="none")
        adapter, leave_out = PipecatPipeline(service), frozenset()
    microphone = Microphone(adapter.speak, folder, MIC_HZ, 20)
    adapter.say = microphone.say
    async with report.step("connects"):
        running = asyncio.create_task(adapter.run())
        await until(lambda: adapter.is_started)
        await adapter.start()
        await asyncio.sleep(2)
        assert not adapter.errors, adapter.errors
    talking = asyncio.create_task(microphone.run())
    await converse(report, adapter, leave_out=leave_out)
    talking.cancel()
    await asyncio.wait_for(running, 20)
    for error in adapter.errors:
        report.note(f"error: {error}")


if __name__ == "__main__":
    asyncio.run(main())
