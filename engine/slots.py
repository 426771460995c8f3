"""The rows of an engine: who occupies which, and how often each was handed out."""

from __future__ import annotations


class Slots:
    """A free list. Released rows go to its end, so that a row rests before it is used again."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._owner: list[str | None] = [None] * count
        self.generations = [0] * count

    @property
    def count(self) -> int:
        return len(self._owner)

    @property
    def used(self) -> int:
        return self.count - len(self._free)

    def acquire(self, owner: str) -> int | None:
        """A row for `owner`, or None when all are occupied."""
        if not self._free:
            return None
        slot = self._free.pop(0)
        self._owner[slot] = owner
        self.generations[slot] += 1
        return slot

    def release(self, slot: int) -> None:
        assert self._owner[slot] is not None, f"slot {slot} is not occupied"
        self._owner[slot] = None
        self._free.append(slot)
