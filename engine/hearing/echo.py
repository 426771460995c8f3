"""The answer's own echo, where a client's loudspeakers are heard by its microphone.

What was played is compared with what is heard, band by band, over the last second: where one
follows the other it is an echo, and the two tell how late it comes and how loud. What is no louder
than the echo must be is not the caller. Until that is known everything is doubted that is much
weaker than what was played.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from engine.hearing.noisefloor import BANDS_HZ, QUIETEST_DB, Levels, played_levels
from engine.hearing.windows import windows
from engine.ipc.protocol import OUTPUT_HZ

PLAYED_BYTES = 2 * OUTPUT_HZ // 50
SILENT = bytes(PLAYED_BYTES)
LONGEST = 30
"""Frames of 20 ms between playing and hearing, at most."""
WINDOW = 40
MIN_VOICED = 20
"""Frames in which something must have been heard before it is judged,"""
SURE_VOICED = 25
"""before what is known is doubted,"""
NEW_VOICED = 12
"""and before it is taken for no echo at all where nothing is known."""
KEPT = LONGEST + WINDOW + 8
MAX_WAITING = 50
"""Played while no sound came: as much as a network's pause brings at once."""
SPARE = 1
"""Of these that may wait all the time."""
UNHEARD = 40
"""Frames of an answer, from its beginning, in which no voice is heard: it has no echo."""
RANGE_DB = 25.0
LIKE = 0.72
UNLIKE = 0.5
"""Correlation of the two. A second of somebody else's speech stays below the first."""
NEW_LIKE, NEW_UNLIKE = 0.78, 0.66
"""The same where no echo is known and both may just have begun together: of 300 pairs of voices an
echo had 0.8 at least, a caller of whom 0.4 s were heard 0.76 at most."""
LOUD_DB = 12.0
LOUDEST_DB = -3.0
"""No echo is louder, against what was played."""
UNKNOWN_DB = -18.0
MARGIN_DB = 7.0
DECAY_DB = 3.0
"""A frame, of the room behind the echo."""
EARLY, LATE = 2, 6
"""Frames around the delay that what is heard may come from."""
PATIENCE = 24
DOUBTS = 4
SHARE = 0.5


class EchoTrack:
    """Owns what was played of late, what was heard beside it, and what is known of the echo."""

    def __init__(self) -> None:
        self.delay = 0
        """In frames."""
        self.gain: Levels | None = None
        """What of each band comes back, dB [bands]; None: nothing, or it is not known."""
        self.is_known = False
        """Whether `gain` says what there is."""
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._least = self._until_caught_up = MAX_WAITING
        self._unread: deque[bytes] = deque(maxlen=KEPT)
        """The newest rows of `_played`, as sound: only what is compared with a voice is read."""
        self._played = np.full((2 * KEPT, len(BANDS_HZ) - 1), QUIETEST_DB)
        self._heard = np.full((2 * KEPT, len(BANDS_HZ) - 1), QUIETEST_DB)
        self._voiced = np.zeros(2 * KEPT, bool)
        self._end = 0
        """Rows that are taken."""
        self._began = 0
        """The row where the answer began."""
        self._silent = KEPT
        """Rows since the last that was played."""
        self._unheard = 0
        """Rows of this answer in which no voice was heard, from its beginning."""
        self._patience = PATIENCE // 2
        self._doubts = 0

    @property
    def is_awaited(self) -> bool:
        """Whether what was played can still be heard."""
        return self._silent < KEPT

    def play(self, pcm: bytes) -> None:
        """Take what was played since the last sound came: packets of 20 ms, 24 kHz."""
        for at in range(0, len(pcm) - PLAYED_BYTES + 1, PLAYED_BYTES):
            self._waiting.append(pcm[at : at + PLAYED_BYTES])

    def hear(self, levels: Levels) -> None:
        """Take the next 20 ms of what is heard, dB [bands]."""
        if not self._waiting and not self.is_awaited:
            return
        if not self.is_awaited:
            self._end = self._began = KEPT
            for rows in (self._played, self._heard):
                rows[:KEPT] = QUIETEST_DB
            self._voiced[:] = False
            self._unheard = 0
        self._unheard += 1
        if self._unheard == UNHEARD and not self.is_known:
            self.is_known = True
        if self._end == 2 * KEPT:
            self._move()
        self._heard[self._end] = levels
        self._voiced[self._end] = False
        self._end += 1
        self._silent = 0 if self._waiting else self._silent + 1
        self._unread.append(self._waiting.popleft() if self._waiting else SILENT)
        self._catch_up()

    def _catch_up(self) -> None:
        """Pass over what has waited all the last second: it was played before, when no sound came,
        and what is compared would be older than its echo for the rest of the answer.
        """
        self._least = min(self._least, len(self._waiting))
        self._until_caught_up -= 1
        if self._until_caught_up > 0:
            return
        for _ in range(self._least - SPARE):
            self._waiting.popleft()
        self._least, self._until_caught_up = MAX_WAITING, MAX_WAITING

    def covers(self, levels: Levels) -> bool:
        """Whether what was heard last, in which there is a voice, is nothing but echo."""
        if not self.is_awaited:
            return False
        self._voiced[self._end - 1] = True
        self._unheard = -KEPT
        is_covered = self._is_covered(levels)
        self._patience -= 1 if is_covered and self.is_known else 4
        if self._patience <= 0:
            self._patience = PATIENCE if self.is_known else PATIENCE // 2
            self._look()
            return self._is_covered(levels)
        return is_covered

    def _is_covered(self, levels: Levels) -> bool:
        if self.gain is not None:
            if len(self._unread) > self.delay - EARLY:
                self._read()
            since = self._end - 1 - self.delay - LATE
            near = self._played[since : min(self._end, since + LATE + EARLY + 1)]
            expected = (near + _DECAYS[: len(near)]).max(axis=0) + self.gain + MARGIN_DB
        elif self.is_known:
            return False
        else:
            self._read()
            expected = self._played[self._end - LONGEST : self._end].max(axis=0) + UNKNOWN_DB
        return not bool((levels > expected).any())

    def _look(self) -> None:
        """Compare what is heard with what was played, for each delay."""
        length = min(WINDOW, self._end - self._began)
        voiced = int(self._voiced[self._end - length : self._end].sum())
        if voiced < (MIN_VOICED if self.is_known else NEW_VOICED):
            return
        self._read()
        heard = self._heard[self._end - length : self._end]
        since = self._end - length - LONGEST
        played = windows(self._played[since : self._end], length)
        one, others = _varying(heard.T), _varying(played)
        energies = np.sqrt((others**2).sum(axis=(1, 2)) * (one**2).sum()) + 1e-9
        likeness = (others * one).sum(axis=(1, 2)) / energies
        best = int(likeness.argmax())
        like = NEW_LIKE if self.gain is None else LIKE
        unlike, sure = (UNLIKE, SURE_VOICED) if self.is_known else (NEW_UNLIKE, NEW_VOICED)
        if likeness[best] >= like and voiced >= MIN_VOICED:
            self._follow(LONGEST - best, heard, played[best].T)
        elif likeness[best] < unlike and voiced >= sure:
            self._doubt()

    def _follow(self, delay: int, heard: Levels, played: Levels) -> None:
        loud = played > played.max(axis=0) - LOUD_DB
        found = np.array(
            [np.median((heard - played)[loud[:, band], band]) for band in range(played.shape[1])]
        )
        found = np.minimum(found, LOUDEST_DB)
        is_same = self.gain is not None and abs(delay - self.delay) <= EARLY
        self.gain = self.gain + SHARE * (found - self.gain) if is_same else found
        self.delay, self.is_known, self._doubts = delay, True, 0

    def _doubt(self) -> None:
        self._doubts += 1
        if self.gain is None or self._doubts >= DOUBTS:
            self.gain, self.is_known, self._doubts = None, True, 0

    def _read(self) -> None:
        """Find the levels of what was played and not yet looked at."""
        if self._unread:
            levels = played_levels(list(self._unread))
            self._played[self._end - len(levels) : self._end] = levels
            self._unread.clear()

    def _move(self) -> None:
        """Keep the newest rows, at the beginning."""
        for rows in (self._played, self._heard, self._voiced):
            rows[:KEPT] = rows[KEPT:]
        self._end = KEPT
        self._began = max(0, self._began - KEPT)


def _varying(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """How levels [..., bands, frames] move around their mean, what is much weaker left out."""
    kept = np.maximum(levels, levels.max(axis=-1, keepdims=True) - RANGE_DB)
    varying: NDArray[np.float64] = kept - kept.mean(axis=-1, keepdims=True)
    return varying


_DECAYS = -DECAY_DB * np.maximum(0, LATE - np.arange(LATE + EARLY + 1))[:, None]
