"""The items of a conversation, in order, for those who ask for one by its id."""

from __future__ import annotations

from collections.abc import Iterator

from signaling.errors import ProtocolError
from signaling.session.items import ROOT, FunctionCallItem, FunctionOutputItem, Item

MAX_ITEMS = 1_000


class Items:
    """Owns the newest `MAX_ITEMS` items."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._names: dict[str, str] = {}
        """What the engine calls the items that it put there itself."""

    def __iter__(self) -> Iterator[Item]:
        return iter(tuple(self._items.values()))

    @property
    def last_id(self) -> str | None:
        return next(reversed(self._items), None)

    def put(self, item: Item, after: str | None = None, *, name: str | None = None) -> None:
        """Replace an item where it stands, or add it behind `after`; None: at the end.

        `name`: what the engine calls it, where that is not its id.
        """
        if name is not None:
            self._names[item.id] = name
        if item.id in self._items or after is None or after == self.last_id:
            self._items[item.id] = item
        else:
            self._insert(item, after)
        if len(self._items) > MAX_ITEMS:
            self._forget(next(iter(self._items)))

    def _insert(self, item: Item, after: str) -> None:
        names = list(self._items)
        at = 0 if after == ROOT else names.index(after) + 1
        behind = {name: self._items.pop(name) for name in names[at:]}
        self._items[item.id] = item
        self._items |= behind

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._items

    def before(self, item_id: str) -> str | None:
        """The id of the item before this one; None for the first, and for one that is not here."""
        before = None
        for name in self._items:
            if name == item_id:
                return before
            before = name
        return None

    def get(self, item_id: str) -> Item:
        """Raises `ProtocolError` for an unknown id."""
        item = self._items.get(item_id)
        if item is None:
            raise ProtocolError(
                f"item_id: there is no item {item_id[:80]!r}.",
                code="item_not_found",
                param="item_id",
            )
        return item

    def delete(self, item_id: str) -> None:
        """Raises `ProtocolError` for an unknown id."""
        self.get(item_id)
        self._forget(item_id)

    def _forget(self, item_id: str) -> None:
        del self._items[item_id]
        self._names.pop(item_id, None)

    def engine_name(self, item_id: str) -> str:
        """What the engine calls an item."""
        return self._names.get(item_id, item_id)

    def calls(self) -> set[str]:
        """The ids of the function calls that are known."""
        return {item.call_id for item in self._items.values() if isinstance(item, FunctionCallItem)}

    def answered_calls(self) -> set[str]:
        return {
            item.call_id for item in self._items.values() if isinstance(item, FunctionOutputItem)
        }
