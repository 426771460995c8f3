"""Which cell of a bounded attention cache holds which frame of a stream, for one session.

A cache of a streaming attention layer is a row of cells. Frames are written once and never moved;
when the limit is reached, a rule says which frames go and new ones take their cells. The same
placement serves all layers and steps of a network, so that it is worked out once, on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Keep = Callable[[int], list[int]]
"""Given the number of frames in order, the indices of those that stay (ascending)."""


@dataclass(frozen=True)
class Placement:
    """Where the frames of a new block go: frame `frames[i]` of the block into cell `cells[i]`."""

    frames: list[int]
    cells: list[int]


def keep_ends(first: int, last: int) -> Keep:
    """Keep the `first` frames of the order and the `last` ones; all while they fit."""

    def keep(count: int) -> list[int]:
        if count <= first + last:
            return list(range(count))
        return [*range(first), *range(count - last, count)]

    return keep


class CacheOrder:
    """The frames of one session's cache in their order, each with its cell.

    `newest_first` puts a new block before all older ones (ascending inside the block), as the
    reference's flow estimator does; otherwise blocks are appended.
    """

    def __init__(self, capacity: int, keep: Keep, *, newest_first: bool = False) -> None:
        self.capacity = capacity
        self._keep = keep
        self._newest_first = newest_first
        self._cells: list[int] = []

    def __len__(self) -> int:
        return len(self._cells)

    def copy(self) -> CacheOrder:
        return self.fitted(self.capacity)

    def fitted(self, capacity: int) -> CacheOrder:
        """A copy for a cache of another size."""
        if len(self) > capacity:
            raise ValueError(f"{len(self)} frames do not fit into {capacity} cells")
        twin = CacheOrder(capacity, self._keep, newest_first=self._newest_first)
        twin._cells = list(self._cells)
        return twin

    def positions(self) -> list[int]:
        """For each occupied cell, in the order of cells, the place of its frame in the order."""
        places = [0] * len(self._cells)
        for place, cell in enumerate(self._cells):
            places[cell] = place
        return places

    def add(self, count: int) -> Placement:
        """Enter a block of `count` frames, drop what the rule drops, say what goes where."""
        old = [(-1, cell) for cell in self._cells]
        new = [(frame, -1) for frame in range(count)]
        order = new + old if self._newest_first else old + new
        kept = [order[i] for i in self._keep(len(order))]
        if len(kept) > self.capacity:
            raise ValueError(f"{len(kept)} frames do not fit into {self.capacity} cells")
        used = {cell for _, cell in kept if cell >= 0}
        free = (cell for cell in range(self.capacity) if cell not in used)
        placement = Placement([], [])
        self._cells = []
        for frame, cell in kept:
            if cell < 0:
                cell = next(free)
                placement.frames.append(frame)
                placement.cells.append(cell)
            self._cells.append(cell)
        return placement
