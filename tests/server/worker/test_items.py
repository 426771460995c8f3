"""Items: found by their id, in order, bounded."""

from __future__ import annotations

import pytest

from server.worker.items import MAX_ITEMS, Items
from signaling.errors import ProtocolError
from signaling.session.items import MessageItem


def item(name: str, status: str = "completed") -> MessageItem:
    return MessageItem(id=name, role="user", status=status)  # type: ignore[arg-type]


def test_newest_item_is_the_last() -> None:
    items = Items()
    assert items.last_id is None
    items.put(item("a"))
    items.put(item("b"))
    assert items.last_id == "b" and "a" in items and "c" not in items


def test_replacing_an_item_keeps_its_place() -> None:
    items = Items()
    items.put(item("a", "in_progress"))
    items.put(item("b"))
    items.put(item("a", "completed"))
    assert items.last_id == "b"
    assert items.get("a") == item("a", "completed")


def test_deleting_the_last_item_makes_the_one_before_it_the_last() -> None:
    items = Items()
    for name in "abc":
        items.put(item(name))
    items.delete("b")
    assert items.last_id == "c"
    items.delete("c")
    assert items.last_id == "a"
    items.delete("a")
    assert items.last_id is None


def test_oldest_items_are_forgotten() -> None:
    items = Items()
    for n in range(MAX_ITEMS + 3):
        items.put(item(f"i{n}"))
    assert "i2" not in items and "i3" in items and items.last_id == f"i{MAX_ITEMS + 2}"


@pytest.mark.parametrize("call", [Items.get, Items.delete])
def test_unknown_item_is_a_protocol_error_that_names_it_in_short(call: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        call(Items(), "x" * 5000)  # type: ignore[operator]
    assert caught.value.param == "item_id" and len(caught.value.message) < 200
