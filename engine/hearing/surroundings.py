"""What is heard when nobody speaks to us: how loud it gets, so that speech must be louder."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator

FRAMES = 100
MIN_FRAMES = 25
PEAK_SHARE = 0.95
MARGIN_DB = 2.0
UNKNOWN_DB = -120.0
HELD_BACK_FRAMES = 15
"""Only then is it known that they were not the soft beginning of an utterance."""
RISE_FRAMES = 40
RISE_DB = 10.0
COMPACT_FRAMES = 100
COMPACT_DB = 13.0
"""A voice has pauses and so a wider range than this; several at once, or a machine, have not."""


class Ranked:
    """Owns the last `most` of some numbers, and their order.

    Asked with each frame of each caller: numpy's quantile takes fifty times as long.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_time: deque[float] = deque()
        self._in_order: list[float] = []

    def __len__(self) -> int:
        return len(self._in_time)

    @property
    def largest(self) -> float:
        return self._in_order[-1]

    def add(self, value: float) -> None:
        """Take the next; the oldest goes where there are too many."""
        if len(self._in_time) == self._most:
            del self._in_order[bisect_left(self._in_order, self._in_time.popleft())]
        self._in_time.append(value)
        insort(self._in_order, value)

    def clear(self) -> None:
        self._in_time.clear()
        self._in_order.clear()

    def __iter__(self) -> Iterator[float]:
        """The oldest first."""
        return iter(self._in_time)

    def quantile(self, share: float) -> float:
        """The number below which this share lies, between neighbours where it is between them."""
        place = share * (len(self._in_order) - 1)
        below = int(place)
        low, high = self._in_order[below], self._in_order[min(below + 1, len(self) - 1)]
        return low + (place - below) * (high - low)


class Surroundings:
    """Owns the levels of the last frames that belonged to no utterance."""

    def __init__(self) -> None:
        self._idle = Ranked(FRAMES)
        self._newest: deque[float] = deque()
        self._recent = Ranked(COMPACT_FRAMES)
        self._loudest_db = UNKNOWN_DB

    @property
    def loudest_db(self) -> float:
        """What is not louder, dBFS, is the background."""
        return self._loudest_db

    def idle(self, level_db: float) -> None:
        """Take a frame outside of utterances."""
        self._recent.clear()
        self._newest.append(level_db)
        if len(self._newest) > HELD_BACK_FRAMES:
            self._idle.add(self._newest.popleft())
            self._reckon()

    def began(self) -> None:
        """An utterance has begun, and what came right before belongs to it."""
        self._newest.clear()

    def spoken(self, level_db: float) -> None:
        """Take a frame of an utterance. What never pauses turns out to be background, and so does
        what somebody begins to speak over much louder."""
        if len(self._recent) >= RISE_FRAMES and level_db > self._recent.largest + RISE_DB:
            self._was_background()
        self._recent.add(level_db)
        if len(self._recent) == COMPACT_FRAMES:
            if self._recent.quantile(0.9) - self._recent.quantile(0.1) < COMPACT_DB:
                self._was_background()

    def _was_background(self) -> None:
        for level_db in self._recent:
            self._idle.add(level_db)
        self._recent.clear()
        self._reckon()

    def _reckon(self) -> None:
        if len(self._idle) >= MIN_FRAMES:
            self._loudest_db = self._idle.quantile(PEAK_SHARE) + MARGIN_DB
