"""What a server may not know of a call, because the connection was lost on the way."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from omnicall.client.carrier import Event

MAX_UNECHOED = 16


class Unarrived:
    """Owned by a call: items that are not known to have arrived, and what is switched on.

    Another process of the server does not know of switches.
    """

    def __init__(self) -> None:
        self._items: dict[str, Event] = {}
        self._switches: dict[str, Event] = {}
        """Fields by the event that switches it on."""

    def message(self, *content: Event) -> Event:
        """Make an item of the user, which may get lost."""
        item_id = f"item_{secrets.token_hex(12)}"
        item = {"id": item_id, "type": "message", "role": "user", "content": list(content)}
        self._items[item_id] = item
        if len(self._items) > MAX_UNECHOED:
            del self._items[next(iter(self._items))]
        return item

    def arrived(self, item_id: str) -> None:
        self._items.pop(item_id, None)

    def switch(self, kind: str, is_on: bool, **fields: object) -> None:
        """Note what the event of this kind switches."""
        if is_on:
            self._switches[kind] = fields
        else:
            self._switches.pop(kind, None)

    def events(self) -> Iterator[tuple[str, Event]]:
        """Kind and fields of the events that switch on what is to be on."""
        yield from tuple(self._switches.items())

    def items(self, continued: Event) -> Iterator[Event]:
        """The items that are not in a `session.continued`."""
        known = {item.get("id") for item in continued.get("items", [])}
        for item_id, item in tuple(self._items.items()):
            if item_id not in known:
                yield item
