"""What no unit waits for is done between units, and now and then beside them."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from engine.minicpmo.modes.background import PATIENCE_S, Background
from tests.waiting import Clock


class Modes:
    """Both modes: units that are decided or spoken, and pieces that are left of each kind."""

    def __init__(self, **left: int) -> None:
        self.left = {"room": 0, "pictures": 0, "prompts": 0, "messages": 0} | left
        self.deciding = self.speaking = False
        self.done: list[str] = []

    def is_busy(self) -> bool:
        return self.deciding

    def is_speaking(self) -> bool:
        return self.speaking

    def do(self, kind: str) -> bool:
        if not self.left[kind]:
            return False
        self.left[kind] -= 1
        self.done.append(kind)
        return True

    def make_room(self) -> bool:
        return self.do("room")

    def look_ahead(self) -> bool:
        return self.do("pictures")

    def read_on(self) -> bool:
        return self.do("prompts")


class Messages:
    def __init__(self, modes: Modes) -> None:
        self._modes = modes

    def read_on(self) -> bool:
        return self._modes.do("messages")


def background(modes: Modes) -> tuple[Background, Clock]:
    clock = Clock()
    turns: Any = Messages(modes)
    return Background(torch.device("cpu"), cast(Any, modes), turns, clock=clock), clock


def test_with_nothing_else_to_do_room_and_pictures_go_before_prompts_and_messages() -> None:
    modes = Modes(room=1, pictures=1, prompts=2, messages=1)
    made, _ = background(modes)
    assert [made.go_on() for _ in range(6)] == [True] * 5 + [False]
    assert modes.done == ["room", "pictures", "prompts", "prompts", "messages"]


@pytest.mark.parametrize("kind", ["deciding", "speaking"])
def test_beside_units_a_piece_is_read_now_and_then(kind: str) -> None:
    modes = Modes(messages=9)
    made, clock = background(modes)
    assert made.go_on()
    setattr(modes, kind, True)
    taken = []
    for _ in range(40):
        clock.now += PATIENCE_S / 10
        taken.append(made.go_on())
    assert 3 <= sum(taken) <= 4


@pytest.mark.parametrize("kind", ["room", "pictures"])
def test_it_waits_for_units_that_are_decided_and_not_for_those_that_are_spoken(kind: str) -> None:
    modes = Modes(**{kind: 2})
    made, clock = background(modes)
    modes.deciding = modes.speaking = True
    clock.now += 10 * PATIENCE_S
    assert not made.go_on()
    modes.deciding = False
    assert made.go_on() and made.go_on() and not made.go_on()
    assert modes.done == [kind] * 2
