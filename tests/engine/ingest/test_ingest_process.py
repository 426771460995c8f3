"""A real ingest process: sound through it, its end and its death."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from engine.base import EngineError
from engine.config import EngineConfig
from engine.host import Host
from engine.ingest.child import Ingest
from engine.ingest.messages import SoundHeard
from engine.ipc.engine_client import EngineClient
from engine.ipc.protocol import AudioIn, FromEngine, SessionConfig, SessionEnded
from tests.engine.fakes import FakeEngine
from tests.waiting import until

pytestmark = pytest.mark.loopback


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_a_session_is_served_through_it_and_told_of_the_end(
    tmp_path: Path, transport: str
) -> None:
    endpoint = f"ipc://{tmp_path}/engine" if transport == "ipc" else "tcp://127.0.0.1:*"
    engine = FakeEngine()
    ingest = Ingest(EngineConfig(name="engine-0#1", endpoint=endpoint))
    host = Host(engine, ingest.inner, 2, is_behind_ingest=True)
    await ingest.start()
    client = EngineClient(ingest.endpoint, name="worker")
    await client.connect()
    said: list[FromEngine] = []
    link = await client.open(
        "one", SessionConfig(), on_message=said.append, on_gone=lambda reason: None
    )
    link.send(AudioIn("one", 0, bytes(640)))
    heard = engine.sessions["one"].heard
    await until(lambda: heard)
    assert isinstance(heard[0], SoundHeard) and heard[0].position == 320
    await host.close()
    await ingest.stop()
    await until(lambda: said)
    assert said == [SessionEnded("one", "shutdown", "the engine is stopping")]
    client.close()


async def test_its_death_is_the_engines(tmp_path: Path) -> None:
    ingest = Ingest(EngineConfig(name="engine-0#1", endpoint=f"ipc://{tmp_path}/engine"))
    host = Host(FakeEngine(), ingest.inner, 2, is_behind_ingest=True)
    await ingest.start()
    watching = asyncio.create_task(ingest.run())
    assert ingest._process is not None
    os.kill(ingest._process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="has ended"):
        await watching
    await ingest.stop()
    await host.close()


async def test_an_address_that_is_taken_stops_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    ingest = Ingest(EngineConfig(name="engine-0#1", endpoint=f"ipc://{folder}/engine"))
    with pytest.raises(EngineError, match="does not start"):
        await ingest.start()
