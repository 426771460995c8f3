"""The `openai` package beside a call of another: `client.realtime.connect(call_id=...)`.

The call itself is made by `omnicall.client`, which speaks and hears; the events, typed messages,
functions and hang-up are the sideband's.
"""

from __future__ import annotations

import asyncio
import wave
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

import omnicall.client
from tests.bench.clients.drivers.openai_realtime import TOOL, TURNS, OpenAIRealtime
from tests.bench.clients.steps import HZ, Report, arguments, converse, loud_s, until


class Sideband(OpenAIRealtime):
    """Sees the events of the call that it joined; the voice is that of the call."""

    def __init__(self, connection: Any, client: AsyncOpenAI, call: omnicall.client.Call) -> None:
        super().__init__(connection, Path())
        self._client = client
        self._call = call
        self.spoken: list[str] = []
        self.say = self.spoken.append

    async def watch(self) -> None:
        async for event in self._connection:
            await self._take(event)

    async def listen(self) -> None:
        async for pcm in self._call.sound:
            self.loud_s += loud_s(pcm.tobytes())

    async def talk(self, folder: Path) -> None:
        while True:
            while not self.spoken:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            path = folder / f"{self.spoken.pop(0)}.wav"
            await self._call.say_file(path)

    async def hang_up(self) -> None:
        await self._client.realtime.calls.hangup(self._call.id)
        await until(lambda: self._call.ending is not None)


def as_wav(folder: Path) -> None:
    """Write the speech as files with a header."""
    for path in folder.glob(f"*.{HZ}.pcm"):
        with wave.open(str(folder / f"{path.name.partition('.')[0]}.wav"), "wb") as out:
            out.setparams((1, 2, HZ, 0, "NONE", ""))
            out.writeframes(path.read_bytes())


async def main() -> None:
    report = Report(version("openai"))
    url, folder = arguments()
    as_wav(folder)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    async with omnicall.client.call(url) as call:
        async with client.realtime.connect(call_id=call.id) as connection:
            async with report.step("connects"):
                assert (await connection.recv()).type == "session.created"
                audio = {"input": {"turn_detection": TURNS}}
                session: Any = {"type": "realtime", "audio": audio, "tools": [TOOL]}
                await connection.session.update(session=session)
                while (await connection.recv()).type != "session.updated":
                    pass
            side = Sideband(connection, client, call)
            runs = (side.watch(), side.listen(), side.talk(folder))
            tasks = [asyncio.create_task(run) for run in runs]
            await converse(report, side)
            for task in tasks:
                task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
