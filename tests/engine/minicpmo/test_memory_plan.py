"""What fits into a GPU: the bytes of a slot are those of the caches, and the plan says why."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from engine.base import EngineError
from engine.config import KvCacheType, MiniCpmoConfig
from engine.gpu.memory import GIB
from engine.minicpmo import engine as minicpmo
from engine.minicpmo.checkpoint import load
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.rows import CACHES
from engine.minicpmo.memory_plan import (
    MOST_RESERVE,
    SlotBytes,
    fitting,
    free_bytes,
    plan,
    reserve,
    slot_bytes,
)
from engine.minicpmo.runner import Runner
from engine.minicpmo.speech.pipeline import SpeechPipeline

CONTEXT = 400
SPEECH = 300
PROMPT = 64
SLOT = SlotBytes(
    thinking=1000 * (CONTEXT + 1), hearing=50_000, choosing=10_000, speech_codes=20_000, sound=0
)


@pytest.mark.parametrize("kv_cache", get_args(KvCacheType))
def test_bytes_of_a_slot_are_what_the_caches_grow_by(
    tiny_checkpoint: Path, kv_cache: KvCacheType
) -> None:
    model = load(tiny_checkpoint, device="cpu", steps=2, show=lambda text: None)
    slot = slot_bytes(
        model,
        max_context=CONTEXT,
        speech_context=SPEECH,
        max_prompt=PROMPT,
        kv_cache=kv_cache,
    )

    def sizes(slots: int) -> tuple[int, ...]:
        runner = Runner(model, slots, CONTEXT, kv_cache)
        pipeline = SpeechPipeline(model, slots, max_prompt=PROMPT, speech_context=SPEECH)
        assert pipeline.code2wav is not None
        return (
            runner.llm.kv.nbytes,
            runner.audio_kv.nbytes,
            pipeline.talker.kv.nbytes,
            pipeline.code2wav.nbytes,
        )

    grown = tuple(b - a for a, b in zip(sizes(1), sizes(2), strict=True))
    assert grown == (slot.thinking, slot.hearing, slot.speech_codes, slot.sound)
    assert all(grown) and slot.total == sum(grown) + slot.choosing


@pytest.mark.parametrize(("most", "slots"), [(1, 1), (7, 7), (8, 8), (50, 8)])
def test_as_many_slots_as_fit_but_no_more_than_wanted(most: int, slots: int) -> None:
    made = plan(8, reserve(most) + most * SLOT.total + SLOT.total // 2, SLOT, CONTEXT)
    assert (made.slots, made.fitting) == (slots, most)
    assert f"{most} fit, {slots} are offered" in str(made) and "thinking" in str(made)


def test_spare_row_of_sound_is_counted() -> None:
    slot = SlotBytes(0, 0, 0, 0, sound=GIB)
    assert plan(8, reserve(2) + 3 * GIB, slot, CONTEXT).slots == 2


@pytest.mark.parametrize("slots", [1, 2, 5, 19, 20, 21, 64])
def test_what_is_kept_grows_with_the_slots_up_to_a_bound(slots: int) -> None:
    """A small card keeps little, a large one no more than a step of its slots ever takes."""
    exactly = reserve(slots) + slots * SLOT.total
    assert fitting(exactly, SLOT) == slots and fitting(exactly - 1, SLOT) == slots - 1
    assert reserve(1) < reserve(2) < reserve(64) == MOST_RESERVE


def test_no_slot_at_all_is_an_error_with_a_context_that_would_fit() -> None:
    short = reserve(1) + SLOT.total - 60_000
    with pytest.raises(EngineError, match=r"max_context to 320 or less \(it is 400\)") as caught:
        plan(8, short, SLOT, CONTEXT)
    assert f"{short / GIB:.2f} GiB are free" in str(caught.value) and "hearing" in str(caught.value)
    smaller = SlotBytes(1000 * 321, 50_000, 10_000, 20_000, 0)
    assert plan(8, short, smaller, 320).slots == 1


@pytest.mark.parametrize("free", [0, reserve(1), reserve(1) + 100_000])
def test_gpu_too_small_for_any_context_says_so(free: int) -> None:
    with pytest.raises(EngineError, match="take a larger one"):
        plan(1, free, SLOT, CONTEXT)


def test_cpu_is_not_planned() -> None:
    assert free_bytes(torch.device("cpu")) is None


@pytest.mark.parametrize("kv_cache", get_args(KvCacheType))
async def test_engine_offers_what_fits(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kv_cache: KvCacheType
) -> None:
    told: list[str] = []
    asked: list[SlotBytes] = []

    def three(wanted: int, free: int, slot: SlotBytes, max_context: int) -> object:
        asked.append(slot)
        return plan(wanted, reserve(3) + slot.sound + 3 * slot.total, slot, max_context)

    monkeypatch.setattr(minicpmo, "free_bytes", lambda device: 1)
    monkeypatch.setattr(minicpmo, "plan", three)
    config = MiniCpmoConfig(device="cpu", max_context=400, flow_steps=1, kv_cache_dtype=kv_cache)
    engine = MiniCpmoEngine(str(tiny_checkpoint), 5, config)
    assert engine.slots == 5
    await engine.start(told.append)
    assert engine.slots == 3
    assert any("3 fit, 3 are offered" in line for line in told)
    assert asked[0].speech_codes > 0 and asked[0].sound > 0
    assert engine._scheduler is not None
    runner = engine._scheduler.runner
    assert type(runner.llm.kv) is CACHES[kv_cache]
    assert asked[0].thinking == CACHES[kv_cache].bytes_per_slot(runner.model.llm.cache_spec(400))
    await engine.close()


async def test_engine_without_room_for_a_session_does_not_start(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minicpmo, "free_bytes", lambda device: reserve(1))
    engine = MiniCpmoEngine(str(tiny_checkpoint), 5, MiniCpmoConfig(device="cpu"))
    with pytest.raises(EngineError, match="not one session fits"):
        await engine.start(lambda text: None)
    await engine.close()
