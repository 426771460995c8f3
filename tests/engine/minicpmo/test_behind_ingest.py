"""The native engine behind an ingest process decides what it decides without one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.host import Host
from engine.ingest.relay import Relay
from engine.ipc import protocol as p
from engine.ipc.engine_client import EngineClient, EngineSessionLink
from engine.minicpmo.engine import MiniCpmoEngine
from tests.engine.minicpmo.engine_rig import SECOND, WAIT_S, config, voiced


class Line:
    """A session of a media worker, and all that its engine said."""

    def __init__(self) -> None:
        self.said: list[p.FromEngine] = []
        self._changed = asyncio.Event()
        self._pts = 0
        self.link: EngineSessionLink | None = None

    def take(self, message: p.FromEngine) -> None:
        self.said.append(message)
        self._changed.set()
        if isinstance(message, p.AudioOut):
            heard = message.pts + len(message.pcm) // 2
            self.say(p.Heard("one", message.epoch, heard, final=message.last))

    def say(self, message: p.Message) -> None:
        assert self.link is not None
        self.link.send(message)

    def hear(self, samples: np.ndarray) -> None:
        for start in range(0, len(samples), 320):
            piece = samples[start : start + 320]
            self.say(p.AudioIn("one", self._pts, piece.astype(np.int16).tobytes()))
            self._pts += len(piece)

    def all(self, kind: Any) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]

    async def until(self, kind: Any, count: int = 1) -> Any:
        async with asyncio.timeout(WAIT_S):
            while len(self.all(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.all(kind)[count - 1]


class Way:
    """From a media worker to the engine, by a relay or without one."""

    def __init__(self, engine: MiniCpmoEngine, folder: Path, *, is_relayed: bool) -> None:
        self.host = Host(engine, f"ipc://{folder}/inner", 4, is_behind_ingest=is_relayed)
        self.relay = Relay(f"ipc://{folder}/outer", self.host.endpoint) if is_relayed else None
        end = self.host if self.relay is None else self.relay
        self.client = EngineClient(end.endpoint, name="worker")

    async def open(self, settings: p.SessionConfig) -> Line:
        await self.client.connect()
        line = Line()
        line.link = await self.client.open(
            "one", settings, on_message=line.take, on_gone=pytest.fail
        )
        return line

    async def close(self, line: Line) -> None:
        assert line.link is not None
        await line.link.close()
        self.client.close()
        if self.relay is not None:
            self.relay.close()
        await self.host.close()


@pytest.mark.parametrize("mode", ["full_duplex", "half_duplex"])
async def test_the_same_is_said_and_heard(
    engine: MiniCpmoEngine, tmp_path: Path, mode: p.Mode
) -> None:
    found = []
    for is_relayed in (False, True):
        way = Way(engine, tmp_path, is_relayed=is_relayed)
        sampling = p.Sampling(seed=7, greedy=True, max_output_tokens=4)
        line = await way.open(config(mode=mode, sampling=sampling, modalities=("text",)))
        running: list[asyncio.Task[None]] = []
        if way.relay is not None:
            running.append(asyncio.create_task(way.relay.run()))
        sound = np.concatenate([np.zeros(SECOND // 2), voiced(1.0), np.zeros(3 * SECOND // 2)])
        for second in range(3):
            line.say(p.ImageIn("one", 0, 8, 8, bytes(192)))
            line.hear(sound[second * SECOND : (second + 1) * SECOND])
            if mode == "full_duplex":
                await line.until(p.UnitDone, second + 1)
        if mode == "half_duplex":
            await line.until(p.ResponseDone)
            await line.until(p.UnitDone)
        for task in running:
            task.cancel()
        spoken = (line.all(p.SpeechStarted), line.all(p.SpeechStopped), line.all(p.TextOut))
        assert len(spoken[0]) == len(spoken[1]) == 1
        found.append((*spoken, [unit.decision for unit in line.all(p.UnitDone)]))
        await way.close(line)
    assert found[0] == found[1]


async def test_the_ingest_process_learns_where_units_end_and_what_is_said(
    engine: MiniCpmoEngine, tmp_path: Path
) -> None:
    way = Way(engine, tmp_path, is_relayed=True)
    line = await way.open(config())
    assert way.relay is not None
    (worker,) = way.relay._lines.values()
    ear = worker._ears["one"]
    async with asyncio.timeout(WAIT_S):
        while not ear._needs.unit_samples:
            line.hear(np.zeros(320))
            await asyncio.sleep(0.02)
        # The random model speaks sooner or later, and what it says is then spoken over.
        while not ear._needs.over:
            line.hear(np.zeros(3200))
            await asyncio.sleep(0.05)
    assert ear._needs.unit_samples == SECOND
    await way.close(line)
