"""The conversation of one session, bounded; owned by the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from engine.ipc.protocol import ROOT, Retention

Role = Literal["user", "assistant", "system", "call", "output"]
"""`call` and `output`: of functions; the text is then the arguments, or what came back."""

MAX_ITEMS = 60
MAX_IMAGES = 4
MAX_CHARS = 24_000
MAX_OUTPUT_CHARS = MAX_CHARS // 2
"""What functions gave back for one thing that was said: what that was has to stay."""
MIN_OUTPUT_CHARS = 500
"""What one output may have, however much the others have taken."""


class Item:
    """One entry. The text of an answer is cut when it turns out that less of it was heard."""

    def __init__(
        self,
        ident: str,
        role: Role,
        text: str,
        images: Sequence[bytes] = (),
        *,
        unread: str = "",
        call_id: str = "",
        name: str = "",
    ) -> None:
        self.ident = ident
        self.role = role
        self.text = text
        self.images = tuple(images)
        """JPEG files."""
        self.unread = unread
        """What of the message cannot be taken in here, for people: "videos", "that picture"."""
        self.call_id = call_id
        self.name = name
        """Of the function that is called."""
        self.mark = 0
        """Of the history when it was given at the end; 0: it is an answer's. Elsewhere that of the
        item in front."""


class History:
    """The newest items in order; the oldest go when there are too many."""

    def __init__(self, retention: Retention | None = None) -> None:
        self.retention = retention
        self._items: list[Item] = []
        self.mark = 0
        """How much the user has given so far."""

    @property
    def items(self) -> Sequence[Item]:
        return self._items

    def add(self, item: Item, after: str = "") -> bool:
        """Add it at the end, at the beginning (`ROOT`) or behind the item of this name.

        Returns whether there is that place; otherwise it goes to the end. Outputs are cut.
        """
        if item.role == "output":
            item.text = _cut(item.text, self._room_for_output())
        found = self._place(after)
        place = len(self._items) if found is None else found
        if place < len(self._items):
            # What was said at an earlier mark belongs behind it, wherever it is given.
            item.mark = self._items[place - 1].mark if place else 0
        elif item.role not in ("assistant", "call"):
            self.mark += 1
            item.mark = self.mark
        self._insert(item, place)
        return found is not None

    def add_said(self, item: Item, mark: int) -> None:
        """Add what was said when the history's mark was this: before what was given since."""
        item.mark = mark
        later = (place for place, kept in enumerate(self._items) if kept.mark > mark)
        self._insert(item, next(later, len(self._items)))

    def _insert(self, item: Item, place: int) -> None:
        self._items.insert(place, item)
        self._forget()
        self._bound_images()

    def _room_for_output(self) -> int:
        taken = 0
        for item in reversed(self._items):
            if item.role in ("user", "assistant"):
                break
            taken += len(item.text) if item.role == "output" else 0
        return max(MIN_OUTPUT_CHARS, MAX_OUTPUT_CHARS - taken)

    def _forget(self) -> None:
        """Of a conversation that is too long the oldest goes; the newest item always stays."""
        if self._fits(1.0):
            return
        share = 1.0 if self.retention is None else self.retention.ratio
        while len(self._items) > 1 and not self._fits(share):
            del self._items[0]

    def _fits(self, share: float) -> bool:
        """Whether there is at most this share of what there may be."""
        kept = self._items
        most = None if self.retention is None else self.retention.max_tokens
        return (
            len(kept) <= share * MAX_ITEMS
            and sum(len(item.text) for item in kept) <= share * MAX_CHARS
            and (most is None or sum(map(_estimate_tokens, kept)) <= share * most)
        )

    def _place(self, after: str) -> int | None:
        if not after:
            return len(self._items)
        if after == ROOT:
            return 0
        places = (place for place, item in enumerate(self._items, 1) if item.ident == after)
        return next(places, None)

    def show(self, item: Item, images: Sequence[bytes]) -> None:
        """Give an item its pictures."""
        item.images = tuple(images)
        self._bound_images()

    def _bound_images(self) -> None:
        num_images = 0
        for kept in reversed(self._items):
            room = MAX_IMAGES - num_images
            kept.images = kept.images[len(kept.images) - room :] if room > 0 else ()
            num_images += len(kept.images)

    def discard(self, item: Item) -> None:
        """Remove it if it is still there."""
        if item in self._items:
            self._items.remove(item)

    def delete(self, ident: str) -> bool:
        """Remove the items of this name; return whether there was one."""
        before = len(self._items)
        self._items = [item for item in self._items if item.ident != ident]
        return len(self._items) < before

    def has_call(self, call_id: str) -> bool:
        return any(item.role == "call" and item.call_id == call_id for item in self._items)

    def unanswered(self) -> list[Item]:
        """Return the user's items after the last answer, oldest first."""
        found: list[Item] = []
        for item in reversed(self._items):
            if item.role == "assistant":
                break
            if item.role == "user":
                found.append(item)
        return found[::-1]

    def last(self, role: Role) -> Item | None:
        return next((item for item in reversed(self._items) if item.role == role), None)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _estimate_tokens(item: Item) -> int:
    """Of its words: only the endpoint's model could count them."""
    return -(-len(item.text.encode()) // 4)
