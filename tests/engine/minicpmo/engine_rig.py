"""A client of the whole native engine, with a tiny random model, who notes what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from engine.base import EngineSession
from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.serving.scheduler import Scheduler

Wanted = TypeVar("Wanted", bound=p.Message)

SECOND = 16_000
SPEAK_AT_ONCE = {"force_listen_count": 0}
WAIT_S = 60.0


def scheduler_of(engine: MiniCpmoEngine) -> Scheduler:
    assert engine._scheduler is not None
    return engine._scheduler


class Talk:
    """A session and all that its engine said."""

    def __init__(self, engine: MiniCpmoEngine, name: str, slot: int, config: p.SessionConfig):
        self.name = name
        self.said: list[p.FromEngine] = []
        self._pts = 0
        self._changed = asyncio.Event()
        self.session: EngineSession = engine.open(name, slot, config, self._take)

    def _take(self, message: p.FromEngine) -> None:
        self.said.append(message)
        self._changed.set()
        if isinstance(message, p.AudioOut):
            # Played at once.
            heard = message.pts + len(message.pcm) // 2
            self.session.handle(p.Heard(self.name, message.epoch, heard, final=message.last))

    def all(self, kind: type[Wanted]) -> list[Wanted]:
        return [message for message in self.said if isinstance(message, kind)]

    async def until(self, kind: type[Wanted], count: int = 1) -> Wanted:
        """Wait for the `count`th message of a kind."""
        return (await self.when(lambda: self.all(kind)[count - 1 :]))[0]

    async def when(self, found: Callable[[], list[Wanted]]) -> list[Wanted]:
        async with asyncio.timeout(WAIT_S):
            while not (result := found()):
                self._changed.clear()
                await self._changed.wait()
        return result

    def hear(self, samples: np.ndarray) -> None:
        """16 kHz sound, int16."""
        for start in range(0, len(samples), 320):
            piece = samples[start : start + 320]
            self.session.handle(p.AudioIn(self.name, self._pts, piece.tobytes()))
            self._pts += len(piece)

    def quiet(self, seconds: float) -> None:
        self.hear(np.zeros(int(seconds * SECOND), np.int16))

    async def units(self, count: int, seconds: float = 1.0) -> list[p.UnitDone]:
        """Let `count` more units of silence pass, one by one."""
        done = len(self.all(p.UnitDone))
        for index in range(count):
            self.quiet(seconds)
            await self.until(p.UnitDone, done + index + 1)
        return self.all(p.UnitDone)[done:]


class Paused(Talk):
    """A client that has not played anything yet."""

    def _take(self, message: p.FromEngine) -> None:
        self.said.append(message)
        self._changed.set()


def voiced(seconds: float) -> np.ndarray:
    """What a voice detector takes for speech: a buzz with the bands of a vowel."""
    at_s = np.arange(int(seconds * SECOND)) / SECOND
    buzz = sum(np.sin(2 * np.pi * 140 * k * at_s) / k for k in range(1, 20))
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * at_s)
    pcm: np.ndarray = (6000 * buzz * swell / np.abs(buzz).max()).astype(np.int16)
    return pcm


def config(**changes: Any) -> p.SessionConfig:
    """A session that may speak from its first unit on, with a seed."""
    options = SPEAK_AT_ONCE | changes.pop("options", {})
    sampling = changes.pop("sampling", p.Sampling(seed=7))
    return p.SessionConfig(options=options, sampling=sampling, **changes)


async def speaking(talk: Talk) -> p.AudioOut:
    """Let units pass until the random model speaks; its first sound."""
    for _ in range(12):
        await talk.units(1)
        if talk.all(p.AudioOut):
            return talk.all(p.AudioOut)[0]
    pytest.fail("the random model never spoke")
