"""Responses of a session that two speak for: the engine's own, and those put between them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from engine.ipc.protocol import response_item


class EpochShift:
    """Owns the numbers that the media worker sees: the engine's epochs, shifted by ours."""

    def __init__(self) -> None:
        self._newest = 0
        """The engine's newest epoch."""
        self._minted: list[int] = []
        """The numbers that were given to responses of ours."""
        self._before: list[int] = []
        """For each of them the engine's newest epoch at that time."""

    def mint(self) -> int:
        """Number a response of ours, behind all that there are."""
        number = self._newest + len(self._minted) + 1
        self._minted.append(number)
        self._before.append(self._newest)
        return number

    def outer(self, epoch: int) -> int:
        """Return the number under which the media worker knows an epoch of the engine."""
        self._newest = max(self._newest, epoch)
        return epoch + bisect_left(self._before, epoch)

    def inner(self, number: int) -> int:
        """Return the engine's epoch of this number; of one of ours, the newest before it."""
        return number - bisect_right(self._minted, number)

    def is_minted(self, number: int) -> bool:
        place = bisect_left(self._minted, number)
        return place < len(self._minted) and self._minted[place] == number

    def inner_name(self, name: str) -> str:
        """Return what the engine calls an item that the media worker names so."""
        before, _, number = name.rpartition("-")
        if not self._minted or not number.isdecimal() or name != response_item(int(number)):
            return name
        return response_item(self.inner(int(number))) if before else name
