"""The native engine behind its interface: how it starts, whom it refuses, what a failure costs.

Guards: what cannot be served is refused by name; the context limit is announced before it is
reached and then ends or slides; a bug costs one session, a broken engine says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.base import EngineError
from engine.config import MiniCpmoConfig
from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from tests.engine.minicpmo.engine_rig import Talk, config, scheduler_of
from tests.waiting import until

ROOM = 240
"""Places in the context of a small engine: some units."""


@pytest.fixture
async def small_engine(tiny_checkpoint: Path) -> AsyncIterator[MiniCpmoEngine]:
    """An engine of its own, with room for some seconds."""
    small = MiniCpmoConfig(device="cpu", max_context=ROOM, flow_steps=1)
    made = MiniCpmoEngine(str(tiny_checkpoint), 2, small)
    await made.start(lambda text: None)
    yield made
    await made.close()


@pytest.mark.parametrize("policy", ["end", "slide"])
async def test_context_limit_is_announced_and_kept(
    small_engine: MiniCpmoEngine, policy: Any
) -> None:
    talk = Talk(small_engine, "one", 0, config(context_policy=policy))
    lengths = [0]
    while lengths == sorted(lengths):
        talk.quiet(1.0)
        await talk.when(partial(_units_or_end, talk, len(lengths) - 1))
        if talk.all(p.SessionEnded):
            break
        lengths = [0, *(unit.kv_tokens for unit in talk.all(p.UnitDone))]
    warnings = [w for w in talk.all(p.SessionWarning) if w.code == "context_near_limit"]
    assert warnings and warnings[0].limit == ROOM
    assert max(unit.kv_tokens for unit in talk.all(p.UnitDone)) <= ROOM
    if policy == "end":
        ended = talk.all(p.SessionEnded)[0]
        assert ended.reason == "context_limit"
        assert talk.said.index(warnings[0]) < talk.said.index(ended)
    else:
        await talk.units(4)
        assert not talk.all(p.SessionEnded)
    await talk.session.close()


def _units_or_end(talk: Talk, since: int) -> list[p.Message]:
    return [*talk.all(p.UnitDone)[since:], *talk.all(p.SessionEnded)]


async def test_settings_that_cannot_be_end_the_session_by_name(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config(options={"window": "sideways"}))
    ended = await talk.until(p.SessionEnded)
    assert ended.reason == "failed" and "sideways" in ended.message
    other = Talk(engine, "two", 1, config(options={"colour": "red"}))
    warning = await other.until(p.SessionWarning)
    assert warning.code == "unknown_option" and "colour" in warning.message
    await talk.session.close()
    await other.session.close()


@pytest.mark.parametrize("mode", ["full_duplex", "turn_based"])
async def test_instructions_that_do_not_fit_are_refused(engine: MiniCpmoEngine, mode: Any) -> None:
    # Fewer than one piece of a prompt, and more: neither is begun.
    for slot, words in enumerate((1800, 8000)):
        talk = Talk(engine, f"s{slot}", slot, config(mode=mode, instructions="word " * words))
        ended = await talk.until(p.SessionEnded)
        assert ended.reason == "failed" and "instructions take" in ended.message
        await talk.session.close()


async def test_missing_checkpoint_says_how_to_get_it(tmp_path: Path) -> None:
    engine = MiniCpmoEngine(str(tmp_path / "nothing"), 1, MiniCpmoConfig(device="cpu"))
    with pytest.raises(EngineError, match="not a folder"):
        await engine.start(lambda text: None)
    await engine.close()


async def test_unknown_default_voice_is_refused(tiny_checkpoint: Path) -> None:
    engine = MiniCpmoEngine(str(tiny_checkpoint), 1, MiniCpmoConfig(device="cpu", voice="nobody"))
    with pytest.raises(EngineError, match="nobody"):
        await engine.start(lambda text: None)
    await engine.close()


async def test_what_fails_for_one_session_ends_only_that_one(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(engine)
    other = Talk(engine, "two", 1, config())
    await other.units(1)

    def broken(pictures: object) -> None:
        raise RuntimeError("a strange picture")

    monkeypatch.setattr(scheduler.runner, "look", broken)
    short = p.Sampling(seed=7, max_output_tokens=10)
    talk = Talk(engine, "one", 0, config(mode="turn_based", sampling=short))
    black = np.zeros((28, 28, 3), np.uint8).tobytes()
    talk.session.handle(p.ImageIn("one", 0, 28, 28, black))
    talk.session.handle(p.CreateResponse("one"))
    assert (await talk.until(p.SessionEnded)).reason == "failed"
    await other.units(2)
    assert not other.all(p.SessionEnded)
    await talk.session.close()
    await other.session.close()


async def test_an_engine_that_cannot_go_on_says_so(
    small_engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(small_engine)

    def broken(*given: object) -> None:
        raise RuntimeError("the GPU has fallen off the bus")

    monkeypatch.setattr(scheduler.runner, "hear", broken)
    monkeypatch.setattr(scheduler.runner, "clear", broken)
    talk = Talk(small_engine, "one", 0, config())
    talk.quiet(1.0)
    await until(lambda: scheduler.is_broken)
    with pytest.raises(EngineError, match="ended with an error"):
        small_engine.pending_ms()
    # Nobody is left who could clear its slot.
    async with asyncio.timeout(5):
        await talk.session.close()
