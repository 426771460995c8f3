"""What of a conversation is kept when it is too long."""

from __future__ import annotations

import pytest

from engine.builtin.history import MAX_CHARS, MAX_ITEMS, History, Item
from engine.ipc.protocol import ROOT, Retention


def filled(count: int, chars: int, retention: Retention | None = None) -> History:
    history = History(retention)
    for number in range(count):
        history.add(Item(f"item-{number}", "user", "x" * chars))
    return history


def names(history: History) -> list[str]:
    return [item.ident for item in history.items]


def test_without_a_retention_no_more_goes_than_has_to() -> None:
    assert len(filled(MAX_ITEMS + 5, 1).items) == MAX_ITEMS
    assert len(filled(20, MAX_CHARS // 10).items) == 10


def test_a_part_of_the_limit_stays() -> None:
    history = filled(MAX_ITEMS, 1, Retention(0.5))
    assert len(history.items) == MAX_ITEMS
    history.add(Item("last", "user", "x"))
    assert len(history.items) == MAX_ITEMS // 2 and names(history)[-1] == "last"
    assert len(filled(11, MAX_CHARS // 10, Retention(0.5)).items) == 5


def test_a_limit_of_tokens_counts_the_words() -> None:
    history = filled(10, 40, Retention(0.8, 100))
    assert names(history) == [f"item-{number}" for number in range(10)]
    history.add(Item("last", "user", "y" * 4))
    assert names(history) == [*(f"item-{number}" for number in range(3, 10)), "last"]


def test_the_newest_item_stays_whatever_is_asked_for() -> None:
    history = filled(3, 100, Retention(0.0, 0))
    assert names(history) == ["item-2"]


def test_a_retention_may_change() -> None:
    history = filled(10, 40)
    history.retention = Retention(1.0, 50)
    history.add(Item("last", "user", "y" * 40))
    assert names(history) == ["item-6", "item-7", "item-8", "item-9", "last"]


def test_what_functions_give_back_leaves_room_for_what_was_asked() -> None:
    history = History()
    history.add(Item("question", "user", "What is new?"))
    for call in ("a", "b", "c"):
        history.add(Item(f"call-{call}", "call", "{}", call_id=call))
    for call in ("a", "b", "c"):
        history.add(Item(call, "output", call * 30_000, call_id=call))
    assert history.items[0].ident == "question" and len(history.items) == 7
    texts = [item.text for item in history.items if item.role == "output"]
    assert [len(text) for text in texts] == [12_000, 500, 500]
    assert all(text.endswith("…") for text in texts)
    history.add(Item("more", "user", "And else?"))
    history.add(Item("d", "output", "d" * 9_000, call_id="d"))
    assert history.items[-1].text == "d" * 9_000


@pytest.mark.parametrize("after", [ROOT, "earlier"])
def test_words_are_found_after_all_that_was_there_when_they_were_said(after: str) -> None:
    history = History()
    history.add(Item("earlier", "user", "x"))
    history.add(Item("answer", "assistant", "x"))
    mark = history.mark
    history.add(Item("rule", "system", "x"), after)
    history.add(Item("typed", "user", "x"))
    said = Item("said", "user", "x")
    history.add_said(said, mark)
    assert names(history)[-2:] == ["said", "typed"]
    assert history.unanswered()[0] is said


def test_what_is_put_between_newer_items_stays_behind_words_of_before() -> None:
    history = History()
    mark = history.mark
    history.add(Item("first", "user", "x"))
    history.add(Item("third", "user", "x"))
    history.add(Item("second", "user", "x"), "first")
    history.add_said(Item("said", "user", "x"), mark)
    assert names(history) == ["said", "first", "second", "third"]
