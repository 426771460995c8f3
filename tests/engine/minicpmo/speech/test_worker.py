"""Orders of the voice lane: batches, what an interruption drops, and what a failure costs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from engine.gpu.timing import Stages
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.speech.pipeline import Emit, Speaker
from engine.minicpmo.speech.talker import Speak
from engine.minicpmo.speech.worker import Say, Spoken, VoiceLane

WAIT_S = 10.0


class Recorder(Speaker):
    """Writes down what it is told; a unit is two parts of sound."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.told: list[tuple[Any, ...]] = []
        self.fails = False
        self.fails_behind = -1
        """The place of a batch whose sound is the last before a failure."""

    def unit(self, batch: Sequence[Speak], stages: Stages, emit: Emit) -> None:
        self.told.append(("unit", *[s.slot for s in batch]))
        if self.fails:
            raise RuntimeError("broken")
        for place, speak in enumerate(batch):
            emit(place, np.full(2, speak.slot, np.int16), False)
            emit(place, np.full(3, speak.slot, np.int16), True)
            if place == self.fails_behind:
                raise RuntimeError("half way")

    def group(self, batch: Sequence[Speak], stages: Stages, emit: Emit) -> None:
        self.told.append(("group", *[s.slot for s in batch]))
        for place in range(len(batch)):
            emit(place, np.zeros(1, np.int16), True)

    def hush(self, slot: int) -> None:
        self.told.append(("hush", slot))

    def clear(self, slot: int) -> None:
        self.told.append(("clear", slot))


def say(
    slot: int,
    name: str = "",
    *,
    unit: bool = True,
    starts: bool = False,
    others_follow: bool = False,
) -> Say:
    speak = Speak(slot, torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), Draws(slot))
    owner = name or f"s{slot}"
    return Say(speak, is_unit=unit, owner=owner, starts=starts, others_follow=others_follow)


def lane() -> tuple[VoiceLane, Recorder, list[Spoken]]:
    done: list[Spoken] = []
    speaker = Recorder()
    return VoiceLane(speaker, done.append), speaker, done


def test_what_waits_is_said_as_one_batch_with_each_slot_once() -> None:
    made, speaker, done = lane()
    for order in (say(0, "a"), say(2, "b"), say(0, "c"), say(1, "d")):
        made.say(order)
    assert made.step() and speaker.told == [("unit", 0, 2)]
    assert made.step() and speaker.told[1:] == [("unit", 0, 1)]
    assert not made.step()
    parts = [(s.say.owner, len(s.pcm), s.is_last) for s in done]
    assert parts[:2] == [("a", 2, False), ("a", 3, True)]
    assert [s.say.owner for s in done if s.is_last] == ["a", "b", "c", "d"]


def test_units_and_groups_are_said_apart() -> None:
    made, speaker, _ = lane()
    for order in (say(0), say(1, unit=False), say(2, unit=False), say(3)):
        made.say(order)
    while made.step():
        pass
    assert speaker.told == [("unit", 0), ("group", 1, 2), ("unit", 3)]


def test_hush_drops_what_was_ordered_before_it_and_says_so() -> None:
    made, speaker, done = lane()
    made.say(say(0, "before"))
    made.say(say(1, "other"))
    made.hush(0)
    made.say(say(0, "after"))
    while made.step():
        pass
    assert speaker.told == [("hush", 0), ("unit", 1, 0)]
    dropped = [s for s in done if s.say.owner == "before"]
    assert len(dropped) == 1 and dropped[0].is_last and not len(dropped[0].pcm)
    assert sum(len(s.pcm) for s in done if s.say.owner == "after") == 5


def test_a_turn_s_first_unit_forgets_what_the_slot_was_saying() -> None:
    made, speaker, _ = lane()
    made.say(say(3, starts=True))
    made.step()
    assert speaker.told == [("hush", 3), ("unit", 3)]


def test_clearing_a_slot_comes_in_its_place() -> None:
    made, speaker, _ = lane()
    made.say(say(1))
    made.clear(1)
    made.say(say(1, "next caller"))
    while made.step():
        pass
    assert speaker.told == [("clear", 1), ("unit", 1)]


def test_a_failure_is_told_to_everyone_in_the_batch_and_the_lane_goes_on() -> None:
    made, speaker, done = lane()
    speaker.fails = True
    for slot in range(2):
        made.say(say(slot))
    made.step()
    assert [(s.say.owner, str(s.error)) for s in done] == [("s0", "broken"), ("s1", "broken")]
    speaker.fails = False
    made.say(say(5))
    made.step()
    assert done[-1].say.owner == "s5" and done[-1].error is None


def test_a_failure_half_way_is_told_to_those_who_have_no_last_part_yet() -> None:
    made, speaker, done = lane()
    speaker.fails_behind = 0
    for slot in range(3):
        made.say(say(slot))
    made.step()
    answers = [(s.say.owner, None if s.error is None else str(s.error)) for s in done if s.is_last]
    assert answers == [("s0", None), ("s1", "half way"), ("s2", "half way")]


def test_its_thread_says_what_is_ordered_until_it_is_stopped() -> None:
    said = threading.Event()
    speaker = Recorder()
    made = VoiceLane(speaker, lambda spoken: said.set() if spoken.is_last else None)
    made.start()
    made.say(say(4))
    assert said.wait(WAIT_S)
    made.stop()
    assert speaker.told == [("unit", 4)]


def test_its_thread_waits_a_moment_for_units_that_are_being_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.minicpmo.speech.worker.GATHER_S", 1.0)
    said = threading.Event()
    speaker = Recorder()
    made = VoiceLane(speaker, lambda spoken: said.set() if spoken.is_last else None)
    made.start()
    made.say(say(1, others_follow=True))
    made.say(say(2))
    assert said.wait(WAIT_S)
    # Nobody comes: it is said all the same.
    said.clear()
    made.say(say(3, others_follow=True))
    assert said.wait(WAIT_S)
    made.stop()
    assert speaker.told == [("unit", 1, 2), ("unit", 3)]
