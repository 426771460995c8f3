"""What is heard when nobody speaks to us: how loud it gets, so that speech must be louder."""

from __future__ import annotations

from collections import deque

import numpy as np

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


class Surroundings:
    """Owns the levels of the last frames that belonged to no utterance."""

    def __init__(self) -> None:
        self._idle: deque[float] = deque(maxlen=FRAMES)
        self._newest: deque[float] = deque()
        self._recent: deque[float] = deque(maxlen=COMPACT_FRAMES)
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
            self._idle.append(self._newest.popleft())
            self._reckon()

    def began(self) -> None:
        """An utterance has begun, and what came right before belongs to it."""
        self._newest.clear()

    def spoken(self, level_db: float) -> None:
        """Take a frame of an utterance. What never pauses turns out to be background, and so does
        what somebody begins to speak over much louder."""
        if len(self._recent) >= RISE_FRAMES and level_db > max(self._recent) + RISE_DB:
            self._was_background()
        self._recent.append(level_db)
        if len(self._recent) == COMPACT_FRAMES:
            low, high = np.quantile(self._recent, (0.1, 0.9))
            if high - low < COMPACT_DB:
                self._was_background()

    def _was_background(self) -> None:
        self._idle.extend(self._recent)
        self._recent.clear()
        self._reckon()

    def _reckon(self) -> None:
        if len(self._idle) >= MIN_FRAMES:
            self._loudest_db = float(np.quantile(self._idle, PEAK_SHARE)) + MARGIN_DB
