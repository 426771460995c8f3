"""How loud the caller is, so that who is much weaker is not taken for the caller."""

from __future__ import annotations

import math

import numpy as np

UNKNOWN_DB = -38.0
"""Before the caller has spoken: a voice that is soft, or far away."""
MAX_FALL_DB = 6.0
"""By how much an utterance can lower the level: it may have been somebody else's."""
ACTIVE_SHARE = 10**-2.5
SHARE = 0.5
MIN_FRAMES = 10


class CallerLevel:
    """Owns the level of the caller's utterances, of their loud parts, in dBFS."""

    def __init__(self) -> None:
        self.db: float | None = None
        self._powers: list[float] = []

    @property
    def usual_db(self) -> float:
        """What the caller's next utterance is measured by."""
        return UNKNOWN_DB if self.db is None else self.db

    def begin(self) -> None:
        """An utterance of the caller begins."""
        self._powers = []

    def add(self, pcm: bytes) -> None:
        """Take the next of it."""
        samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32768
        self._powers.append(float(samples @ samples) / max(1, len(samples)))

    def end(self) -> None:
        """It is over."""
        powers, self._powers = np.array(self._powers), []
        if len(powers) < MIN_FRAMES or not powers.max():
            return
        active = powers[powers > powers.max() * ACTIVE_SHARE]
        found_db = 10 * math.log10(float(active.mean()))
        if self.db is None:
            self.db = found_db
        else:
            self.db = max(self.db + SHARE * (found_db - self.db), self.db - MAX_FALL_DB)
