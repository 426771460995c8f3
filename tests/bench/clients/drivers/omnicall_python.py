"""`omnicall.client`.

python -m tests.bench.clients.drivers.omnicall_python URL FOLDER webrtc|websocket
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np

import omnicall.client
from tests.bench.clients.steps import HZ, Report, arguments, converse, loud_s, until


class OwnClient:
    """Adapter of one call."""

    def __init__(self, call: omnicall.client.Call, folder: Path) -> None:
        self.said = self.heard = ""
        self.loud_s = 0.0
        self.calls = self.interruptions = 0
        self.call = call
        self._folder = folder
        self._saying: set[asyncio.Task[None]] = set()

    def say(self, name: str) -> None:
        pcm = np.frombuffer((self._folder / f"{name}.{HZ}.pcm").read_bytes(), np.int16)
        task = asyncio.create_task(self.call.say(pcm, HZ))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    async def type(self, text: str) -> None:
        await self.call.write(text)

    async def hang_up(self) -> None:
        await self.call.hang_up()
        await until(lambda: self.call.ending is not None)

    async def listen(self) -> None:
        async for pcm in self.call.sound:
            self.loud_s += loud_s(pcm.tobytes())

    async def read(self) -> None:
        async for event in self.call.events:
            match event["type"]:
                case "response.output_audio_transcript.delta":
                    self.said += event["delta"]
                case "response.done" if event["response"]["status"] == "cancelled":
                    self.interruptions += 1

    async def follow(self) -> None:
        async for caption in self.call.captions:
            if caption.role == "user" and caption.is_final:
                self.heard += caption.text


async def main() -> None:
    report = Report(omnicall.client.__version__)
    url, folder = arguments()
    transport: Any = sys.argv[3]
    adapters: list[OwnClient] = []

    def get_weather(about: str) -> str:
        """The weather in a city."""
        adapters[0].calls += 1
        return "sunny"

    call = omnicall.client.call(url, transport=transport, tools=[get_weather])
    async with report.step("connects"):
        await call.__aenter__()
    adapters.append(OwnClient(call, folder))
    runs = (adapters[0].listen(), adapters[0].read(), adapters[0].follow())
    tasks = [asyncio.create_task(run) for run in runs]
    await converse(report, adapters[0])
    await call.__aexit__(None, None, None)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
