"""Responses put between those of an engine: who knows them under which number."""

from __future__ import annotations

from engine.delegate.numbering import EpochShift


def test_without_any_of_ours_numbers_and_names_stay() -> None:
    shift = EpochShift()
    assert [shift.outer(epoch) for epoch in (1, 2, 2)] == [1, 2, 2]
    assert shift.inner(2) == 2 and shift.inner_name("response-2") == "response-2"


def test_later_responses_move_on_and_come_back_under_their_own_numbers() -> None:
    shift = EpochShift()
    shift.outer(1)
    assert (shift.mint(), shift.mint()) == (2, 3)
    assert [shift.outer(epoch) for epoch in (1, 2)] == [1, 4]
    assert shift.mint() == 5
    assert shift.outer(3) == 6
    assert [shift.inner(number) for number in range(1, 7)] == [1, 1, 1, 2, 2, 3]
    assert [number for number in range(1, 7) if shift.is_minted(number)] == [2, 3, 5]


def test_items_are_named_after_the_engines_own_numbers() -> None:
    shift = EpochShift()
    shift.mint()
    shift.outer(1)
    assert shift.inner_name("response-2") == "response-1"
    for name in ("utterance-2", "response-", "response-x", "response-02", "2", "", "call-a-2"):
        assert shift.inner_name(name) == name
