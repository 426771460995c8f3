"""Slots: each row has one owner at most, and rests before it is used again."""

from __future__ import annotations

import random

import pytest

from engine.host import Slots


def test_rows_are_handed_out_until_none_is_free() -> None:
    slots = Slots(2)
    assert [slots.acquire("a"), slots.acquire("b"), slots.acquire("c")] == [0, 1, None]
    assert (slots.used, slots.count) == (2, 2)


def test_released_row_goes_to_the_end_of_the_free_list() -> None:
    slots = Slots(3)
    first = slots.acquire("a")
    assert first == 0
    slots.release(first)
    assert [slots.acquire(name) for name in "bcd"] == [1, 2, 0]


def test_releasing_a_free_row_is_an_error_of_ours() -> None:
    slots = Slots(2)
    slots.acquire("a")
    slots.release(0)
    with pytest.raises(AssertionError, match="slot 0 is not occupied"):
        slots.release(0)
    assert slots.used == 0


def test_free_and_used_always_add_up() -> None:
    rng = random.Random(3)
    slots, held, taken = Slots(7), set[int](), 0
    for _ in range(2000):
        if held and rng.random() < 0.5:
            slot = rng.choice(sorted(held))
            slots.release(slot)
            held.remove(slot)
        else:
            acquired = slots.acquire("x")
            assert (acquired is None) == (len(held) == 7)
            if acquired is not None:
                assert acquired not in held
                held.add(acquired)
                taken += 1
        assert slots.used == len(held)
    assert taken > 500
