"""What is typed in full duplex, on a GPU: rows are appended to between graphs of whole units."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.config import MiniCpmoConfig
from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.modes.typed_turns import PORTION
from tests.engine.gpu.cuda_rig import cuda_only
from tests.engine.minicpmo.engine_rig import scheduler_of
from tests.engine.minicpmo.turn_rig import Rows, begin, respond, write
from tests.waiting import until

pytestmark = cuda_only()

TEXT = " ".join(f"The number is {n}." for n in range(60))
"""Longer than what is read at once, so that units pass within it."""


@pytest.fixture
async def engine_on_cuda(tiny_checkpoint: Path) -> AsyncIterator[MiniCpmoEngine]:
    config = MiniCpmoConfig(device="cuda", max_context=2048, flow_steps=1)
    made = MiniCpmoEngine(str(tiny_checkpoint), 2, config)
    await made.start(lambda text: None)
    yield made
    await made.close()


async def test_long_messages_are_read_between_units_and_answered(
    engine_on_cuda: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_on_cuda
    assert len(scheduler_of(engine).runner.model.tokens.encode(TEXT)) > PORTION
    rows = Rows(engine, monkeypatch, rebuilds=True)
    talk = begin(engine, mode="full_duplex", options={"force_listen_count": 1_000})
    await talk.units(2)
    write(talk, TEXT)
    respond(talk, request="typed")
    await until(lambda: "is 59.<|im_end|>" in rows.text)
    units = await talk.units(2)
    assert len(units) == 2 and not talk.all(p.RequestRefused)
    [began] = talk.all(p.ResponseStarted)
    assert (began.trigger, began.request) == ("request", "typed")
    assert rows.text.count("<|im_start|>user\nThe number is 0.") == 1
    await talk.session.close()
