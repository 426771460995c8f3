"""`openbmb-realtime`: the model team's own client, which only speaks and hears."""

from __future__ import annotations

import array
import asyncio
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openbmb_realtime import RealtimeClient

from tests.bench.clients.steps import STORY, Microphone, Report, arguments, converse, loud_s

MIC_HZ = 16_000
PAUSE_S = 1.5


class OpenBMB:
    """Adapter of one audio session."""

    def __init__(self, session: Any, folder: Path) -> None:
        self.said = self.heard = ""
        self.loud_s = 0.0
        self.calls = 0
        self._heard_at = 0.0
        self._cuts = 0
        self.session = session
        self.microphone = Microphone(self._send, folder, MIC_HZ, 200)
        self.say = self.microphone.say

    @property
    def interruptions(self) -> int:
        """Nothing tells it of one: the sound just stops coming."""
        if self._heard_at and time.monotonic() > self._heard_at + PAUSE_S:
            self._heard_at = 0.0
            self._cuts += 1
        return self._cuts

    async def run(self) -> None:
        async for event in self.session:
            match type(event).__name__:
                case "AudioDelta":
                    floats = array.array("f", event.audio)
                    pcm = array.array("h", (int(32767 * max(-1, min(1, f))) for f in floats))
                    self.loud_s += loud_s(pcm.tobytes())
                    self._heard_at = time.monotonic()
                case "TextDelta":
                    self.said += event.text
                case "UserTranscript":
                    self.heard += event.text

    async def type(self, text: str) -> None:
        assert text == STORY, "it has no typed text"
        self.say("tell_story")

    async def hang_up(self) -> None:
        await self.session.close()

    async def _send(self, pcm: bytes) -> None:
        floats = array.array("f", (sample / 32768 for sample in array.array("h", pcm)))
        await self.session.send_audio(floats.tobytes())


async def main() -> None:
    report = Report(version("openbmb-realtime"))
    url, folder = arguments()
    client = RealtimeClient(api_key="none", base_url=url)
    async with report.step("connects"):
        session = await client.audio.connect(model="omnicall", system_prompt="Be brief.")
    adapter = OpenBMB(session, folder)
    tasks = [asyncio.create_task(run()) for run in (adapter.run, adapter.microphone.run)]
    leave_out = frozenset({"text", "tools"})
    await converse(report, adapter, leave_out=leave_out)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
