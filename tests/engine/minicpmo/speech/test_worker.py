"""Orders of the speech worker: batches, what an interruption drops, and what a failure costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from engine.gpu.timing import Stages
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.speech.pipeline import Emit, SpeechPipeline
from engine.minicpmo.speech.talker import TalkerInput
from engine.minicpmo.speech.worker import SpeechChunk, SpeechRequest, SpeechWorker
from tests.waiting import PATIENCE_S, until_blocking


class Recorder(SpeechPipeline):
    """Writes down what it is told; a unit is two parts of sound."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.told: list[tuple[Any, ...]] = []
        self.fails = False
        self.fails_behind = -1
        """The place of a batch whose sound is the last before a failure."""

    def unit(self, batch: Sequence[TalkerInput], stages: Stages, emit: Emit) -> None:
        self.told.append(("unit", *[s.slot for s in batch]))
        if self.fails:
            raise RuntimeError("broken")
        for place, speak in enumerate(batch):
            emit(place, np.full(2, speak.slot, np.int16), False)
            emit(place, np.full(3, speak.slot, np.int16), True)
            if place == self.fails_behind:
                raise RuntimeError("half way")

    def group(self, batch: Sequence[TalkerInput], stages: Stages, emit: Emit) -> None:
        self.told.append(("group", *[s.slot for s in batch]))
        for place in range(len(batch)):
            emit(place, np.zeros(1, np.int16), True)

    def cancel(self, slot: int) -> None:
        self.told.append(("cancel", slot))

    def clear(self, slot: int) -> None:
        self.told.append(("clear", slot))


def say(
    slot: int,
    name: str = "",
    *,
    unit: bool = True,
    starts: bool = False,
    others_follow: bool = False,
) -> SpeechRequest:
    text = TalkerInput(slot, torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), Draws(slot))
    return SpeechRequest(
        name or f"s{slot}", text, unit, never, starts=starts, others_follow=others_follow
    )


def never(chunk: SpeechChunk) -> None:
    """For the one that receives chunks: the worker itself leaves it alone."""
    raise AssertionError(chunk)


def worker() -> tuple[SpeechWorker, Recorder, list[SpeechChunk]]:
    done: list[SpeechChunk] = []
    pipeline = Recorder()
    return SpeechWorker(pipeline, done.append), pipeline, done


def test_what_waits_is_said_as_one_batch_with_each_slot_once() -> None:
    made, pipeline, done = worker()
    for order in (say(0, "a"), say(2, "b"), say(0, "c"), say(1, "d")):
        made.submit(order)
    assert made.step() and pipeline.told == [("unit", 0, 2)]
    assert made.step() and pipeline.told[1:] == [("unit", 0, 1)]
    assert not made.step()
    parts = [(s.request.session, len(s.pcm), s.is_last) for s in done]
    assert parts[:2] == [("a", 2, False), ("a", 3, True)]
    assert [s.request.session for s in done if s.is_last] == ["a", "b", "c", "d"]


def test_units_and_groups_are_said_apart() -> None:
    made, pipeline, _ = worker()
    for order in (say(0), say(1, unit=False), say(2, unit=False), say(3)):
        made.submit(order)
    while made.step():
        pass
    assert pipeline.told == [("unit", 0), ("group", 1, 2), ("unit", 3)]


def test_a_cancellation_drops_what_was_ordered_before_it_and_says_so() -> None:
    made, pipeline, done = worker()
    made.submit(say(0, "before"))
    made.submit(say(1, "other"))
    made.cancel(0)
    made.submit(say(0, "after"))
    while made.step():
        pass
    assert pipeline.told == [("cancel", 0), ("unit", 1, 0)]
    dropped = [s for s in done if s.request.session == "before"]
    assert len(dropped) == 1 and dropped[0].is_last and not len(dropped[0].pcm)
    assert sum(len(s.pcm) for s in done if s.request.session == "after") == 5


def test_a_turn_s_first_unit_forgets_what_the_slot_was_saying() -> None:
    made, pipeline, _ = worker()
    made.submit(say(3, starts=True))
    made.step()
    assert pipeline.told == [("cancel", 3), ("unit", 3)]


def test_clearing_a_slot_comes_in_its_place() -> None:
    made, pipeline, _ = worker()
    made.submit(say(1))
    made.clear(1)
    made.submit(say(1, "next caller"))
    while made.step():
        pass
    assert pipeline.told == [("clear", 1), ("unit", 1)]


def test_a_failure_is_told_to_everyone_in_the_batch_and_the_worker_goes_on() -> None:
    made, pipeline, done = worker()
    pipeline.fails = True
    for slot in range(2):
        made.submit(say(slot))
    made.step()
    assert [(s.request.session, str(s.error)) for s in done] == [("s0", "broken"), ("s1", "broken")]
    pipeline.fails = False
    made.submit(say(5))
    made.step()
    assert done[-1].request.session == "s5" and done[-1].error is None


def test_a_failure_half_way_is_told_to_those_who_have_no_last_part_yet() -> None:
    made, pipeline, done = worker()
    pipeline.fails_behind = 0
    for slot in range(3):
        made.submit(say(slot))
    made.step()
    answers = [
        (s.request.session, None if s.error is None else str(s.error)) for s in done if s.is_last
    ]
    assert answers == [("s0", None), ("s1", "half way"), ("s2", "half way")]


def test_its_thread_says_what_is_ordered_until_it_is_stopped() -> None:
    made, pipeline, done = worker()
    made.start()
    made.submit(say(4))
    until_blocking(lambda: done and done[-1].is_last)
    made.stop()
    assert pipeline.told == [("unit", 4)]


def test_its_thread_waits_a_moment_for_units_that_are_being_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.minicpmo.speech.worker.GATHER_S", PATIENCE_S)
    made, pipeline, done = worker()
    made.start()
    made.submit(say(1, others_follow=True))
    made.submit(say(2))
    until_blocking(lambda: sum(chunk.is_last for chunk in done) == 2)
    # Nobody comes: it is said all the same.
    monkeypatch.setattr("engine.minicpmo.speech.worker.GATHER_S", 0.01)
    made.submit(say(3, others_follow=True))
    until_blocking(lambda: sum(chunk.is_last for chunk in done) == 3)
    made.stop()
    assert pipeline.told == [("unit", 1, 2), ("unit", 3)]
