"""The items of a conversation, for those who ask for one by its id."""

from __future__ import annotations

from signaling import server_events as ev
from signaling.errors import ProtocolError

MAX_ITEMS = 1_000


class Items:
    """Owns the newest `MAX_ITEMS` items, in order."""

    def __init__(self) -> None:
        self._items: dict[str, ev.Item] = {}
        self.last_id: str | None = None

    def put(self, item: ev.Item) -> None:
        """Add an item, or replace it where it stands."""
        if item.id not in self._items:
            self.last_id = item.id
        self._items[item.id] = item
        if len(self._items) > MAX_ITEMS:
            del self._items[next(iter(self._items))]

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._items

    def get(self, item_id: str) -> ev.Item:
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
        del self._items[item_id]
        if self.last_id == item_id:
            self.last_id = next(reversed(self._items), None)
