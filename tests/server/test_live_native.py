"""A native engine whose model thread has died, in a running server with real processes and peers.

Guards: who broke it is told, the others go on; its process ends by itself and says why; a new one
takes its place; who calls meanwhile waits, and is served.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.caller import Caller
from tests.server.front.frail import WORD
from tests.server.test_live_faults import nothing_open, stats, until
from tests.serving import Serving

pytest.importorskip("torch", reason="the native engine needs torch: the test extra has it")

pytestmark = pytest.mark.loopback

FRAIL = (sys.executable, "-m", "tests.server.front.frail")


async def test_engine_whose_model_thread_died_is_replaced(tmp_path: Path) -> None:
    from tests.tiny_checkpoint import write_checkpoint

    model = write_checkpoint(tmp_path / "tiny", seed=3)
    log = tmp_path / "log"
    settings = ("minicpmo.device=cpu", "minicpmo.max_context=400", f"log.file={log}")
    options = ["--engine", "minicpmo", "--model", str(model)]
    for setting in settings:
        options += ["--set", setting]
    with Serving(*options, command=FRAIL) as server:
        before = server.process("engine")
        async with Caller(server.url) as one, Caller(server.url) as two:
            await one.hears("session.created")
            await two.hears("session.created")
            one.type(WORD)
            ended = await one.hears("session.ended")
            assert ended["reason"] in ("engine_failed", "engine_gone")
            await one.is_over()
            assert (await two.hears("session.resumed"))["kept"] == "words"
        async with Caller(server.url) as meanwhile:
            await meanwhile.hears("session.created", timeout_s=120.0)
            await until(server, lambda s: s["slots"]["used"] == 1)
        found = await until(server, nothing_open)
        after = server.process("engine")
        assert after["pid"] != before["pid"] and after["restarts"] >= 1
        assert [p["restarts"] for p in found["processes"] if p["role"] == "worker"] == [0]
        assert (await stats(server))["ready"]
    told = await asyncio.to_thread(log.read_text)
    assert "engine-0: a thread of the engine ended with an error, see its log; restart" in told
    assert "the GPU has fallen off the bus" in told
