"""Which cell of a bounded attention cache holds which frame of a stream, for one session.

A cache of a streaming attention layer is a row of cells; those in use are the first ones. Frames
are written once and not moved: when the limit is reached, a rule says which frames go and new ones
take their cells. The same placement serves all layers and steps of a network, so that it is worked
out once, on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

Keep = Callable[[int], Indices]
"""Given the number of frames in order, the indices of those that stay (ascending)."""

DROPPED = -1


def keep_ends(first: int, last: int) -> Keep:
    """Keep the `first` frames of the order and the `last` ones; all while they fit."""

    def keep(count: int) -> Indices:
        if count <= first + last:
            return np.arange(count)
        return np.concatenate([np.arange(first), np.arange(count - last, count)])

    return keep


class CacheOrder:
    """The frames of one session's cache in their order, each with its cell; immutable.

    `newest_first` puts a new block before all older ones (ascending inside the block), as the
    reference's flow estimator does; otherwise blocks are appended.
    """

    def __init__(
        self, keep: Keep, *, newest_first: bool = False, cells: Indices | None = None
    ) -> None:
        self._keep = keep
        self._newest_first = newest_first
        self._cells = np.zeros(0, np.int64) if cells is None else cells
        self.positions = np.empty_like(self._cells)
        """For each cell in use the place of its frame in the order."""
        self.positions[self._cells] = np.arange(len(self._cells))

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, count: int) -> tuple[Indices, CacheOrder]:
        """Enter `count` frames: the cell of each, or `DROPPED`, and the order that this gives."""
        new = -1 - np.arange(count)
        parts = [new, self._cells] if self._newest_first else [self._cells, new]
        order = np.concatenate(parts)
        kept = order[self._keep(len(order))]
        is_new = kept < 0
        free = np.ones(len(kept), np.bool_)
        free[kept[~is_new]] = False
        cells = np.flatnonzero(free)
        placed = np.full(count, DROPPED)
        placed[-1 - kept[is_new]] = cells
        kept[is_new] = cells
        return placed, CacheOrder(self._keep, newest_first=self._newest_first, cells=kept)


class Orders:
    """The orders of caches that advance together; immutable.

    Sessions with the same voice go through the same orders, so that most are worked out once: what
    was entered last into the orders that began alike is remembered.
    """

    REMEMBERED = 512
    """Blocks; what one leads to takes some 20 KB."""

    def __init__(self, orders: tuple[CacheOrder, ...], entered: _Entered | None = None) -> None:
        """`entered`: what is shared with the orders that these come from."""
        self.orders = orders
        self._entered = lru_cache(maxsize=self.REMEMBERED)(_enter) if entered is None else entered

    def add(self, counts: tuple[int, ...]) -> tuple[tuple[Indices, ...], Orders]:
        """Enter a block of `counts[i]` frames in cache i, see `CacheOrder.add`."""
        return self._entered(self, counts)


_Entered = Callable[[Orders, tuple[int, ...]], tuple[tuple[Indices, ...], Orders]]


def _enter(before: Orders, counts: tuple[int, ...]) -> tuple[tuple[Indices, ...], Orders]:
    added = [order.add(count) for order, count in zip(before.orders, counts, strict=True)]
    after = Orders(tuple(order for _, order in added), before._entered)
    return tuple(placed for placed, _ in added), after
