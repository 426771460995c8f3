"""One engine for all tests of a process: to build it takes longer than most of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.base import EngineSession, Send
from engine.config import MiniCpmoConfig
from engine.files.decoder import FileDecoder
from engine.gpu.graphs import GraphPool
from engine.ipc.protocol import SessionConfig
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.batch import Replay
from engine.minicpmo.modes import thinning
from engine.minicpmo.speech import talker

GROUP_CODES = 30
"""A random talker never ends by itself: each word would be spoken for 20 s."""


@pytest.fixture
def warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearse each shape as on a GPU."""
    monkeypatch.setattr(GraphPool, "has_to_warm_up", True)


@pytest.fixture(scope="session")
def running_engine(tiny_checkpoint: Path) -> Iterator[MiniCpmoEngine]:
    """Use `engine`, which leaves it as it was."""
    config = MiniCpmoConfig(device="cpu", max_context=1700, flow_steps=1)
    made = MiniCpmoEngine(str(tiny_checkpoint), 4, config)
    asyncio.run(made.start(lambda text: None))
    yield made
    asyncio.run(made.close())


@pytest.fixture
async def engine(
    running_engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MiniCpmoEngine]:
    """An engine with four free slots; what a test leaves open is closed after it."""
    # However slow this machine is, every picture is looked at.
    monkeypatch.setattr(thinning, "RAISE_AT", float("inf"))
    monkeypatch.setattr(talker, "MAX_GROUP_CODES", GROUP_CODES)
    assert running_engine._scheduler is not None
    for batch in (running_engine._scheduler.runner.duplex, running_engine._scheduler.runner.turns):
        monkeypatch.setattr(batch, "replay", Replay())
    decoder = FileDecoder()
    monkeypatch.setattr(running_engine, "_decoder", decoder)
    opened: list[EngineSession] = []
    begin = MiniCpmoEngine.open

    def noted(
        engine: MiniCpmoEngine, session: str, slot: int, config: SessionConfig, send: Send
    ) -> EngineSession:
        opened.append(begin(engine, session, slot, config, send))
        return opened[-1]

    monkeypatch.setattr(MiniCpmoEngine, "open", noted)
    yield running_engine
    for session in opened:
        await session.close()
    decoder.close()
