"""How many sessions an engine can serve at its present pace: the rule of admission."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from engine.ipc.supervision import Quantiles

KEPT_PER_STAGE = 512
MAX_STAGES = 32


def quantiles(values: list[float]) -> Quantiles:
    """Nearest-rank quantiles of a non-empty list."""
    ordered = sorted(values)
    last = len(ordered) - 1

    def rank(q: float) -> float:
        return round(ordered[min(last, int(q * len(ordered)))], 3)

    return Quantiles(len(ordered), rank(0.5), rank(0.95), rank(0.99))


class Stages:
    """The last `KEPT_PER_STAGE` durations of each stage, in ms."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}
        self.units = 0

    def add(self, stages_ms: dict[str, float]) -> None:
        self.units += 1
        for name, ms in stages_ms.items():
            if name not in self._recent and len(self._recent) >= MAX_STAGES:
                continue
            self._recent.setdefault(name, deque(maxlen=KEPT_PER_STAGE)).append(ms)

    def summary(self) -> dict[str, Quantiles]:
        return {name: quantiles(list(values)) for name, values in self._recent.items() if values}


WINDOW_S = 10.0
"""What is older does not count."""
EASY = 0.6
"""Up to here every slot may be used. Of a unit's length, as the next ones are."""
HARD = 0.9
"""Beyond it nobody is added."""
MARGIN = 0.1
"""So far below a threshold the figure must fall before more is admitted again, ..."""
HOLD_S = 3.0
"""... and so long it must stay there."""

Level = Literal["easy", "tight", "full"]
_LEVELS: tuple[Level, ...] = ("easy", "tight", "full")


class Pace(NamedTuple):
    """The figures of the last `WINDOW_S`."""

    capacity: int
    """Sessions that can be served now, those there are included: fewer than there are where they
    come late."""
    unit_p99_ms: float
    """From the moment a unit's sound was complete until the unit was done."""
    late_share: float
    """Of all units, those that took longer than a unit and so delay the next, 0 to 1."""


class _UnitFigures(NamedTuple):
    at: float
    ms: float
    dropped_ms: int


class Headroom:
    """Owned by one engine process. `unit` is told of each unit, `pace` asked about once a second.

    Worse figures count at once, better ones only after `HOLD_S` and by one level at a time. At
    level "tight" one session is added in `WINDOW_S` at most: the figures of the one before must
    be in.
    """

    def __init__(
        self, slots: int, unit_ms: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`unit_ms`: length of a unit."""
        self._slots = slots
        self._unit_ms = unit_ms
        self._clock = clock
        self._units: deque[_UnitFigures] = deque()
        self._level: Level = "easy"
        self._better_since: float | None = None
        self._worst_ms = 0.0
        self._ceiling = slots
        """Sessions at level "tight" at most, until `_ceiling_until`."""
        self._ceiling_until = 0.0

    def unit(self, ms: float, dropped_ms: int) -> None:
        """A unit is done, `ms` after its sound was complete; before it `dropped_ms` were lost."""
        self._units.append(_UnitFigures(self._clock(), ms, dropped_ms))

    def pace(self, sessions: int, pending_ms: float) -> Pace:
        """`sessions`: those there are; `pending_ms`: the oldest sound that waits for its unit."""
        now = self._clock()
        while self._units and self._units[0].at < now - WINDOW_S:
            self._units.popleft()
        times = [unit.ms for unit in self._units]
        p99_ms = quantiles(times).p99 if times else 0.0
        late = sum(ms > self._unit_ms for ms in times)
        if sessions == 0:
            # Nobody is there to measure with, and nobody to protect.
            self._level, self._better_since = "easy", None
        else:
            has_dropped = any(unit.dropped_ms for unit in self._units)
            # Up to a unit of sound always waits; what is beyond has not been begun in time.
            self._judge(now, max(p99_ms, pending_ms - self._unit_ms), has_dropped)
        share = round(late / len(times), 4) if times else 0.0
        return Pace(self._capacity(now, sessions), round(p99_ms, 1), share)

    def _judge(self, now: float, worst_ms: float, has_dropped: bool) -> None:
        self._worst_ms = worst_ms
        level = self._level_at(worst_ms, has_dropped)
        if _LEVELS.index(level) >= _LEVELS.index(self._level):
            self._better_since = None
            self._enter(level)
            return
        surely = self._level_at(worst_ms + MARGIN * self._unit_ms, has_dropped)
        if _LEVELS.index(surely) >= _LEVELS.index(self._level):
            self._better_since = None
        elif self._better_since is None:
            self._better_since = now
        elif now - self._better_since >= HOLD_S:
            self._better_since = now
            self._enter(_LEVELS[_LEVELS.index(self._level) - 1])

    def _enter(self, level: Level) -> None:
        if level != self._level:
            self._level, self._ceiling_until = level, 0.0

    def _capacity(self, now: float, sessions: int) -> int:
        if self._level == "easy":
            return self._slots
        if self._level == "full":
            # As many as would be in time at the pace of those there are.
            hard_ms = HARD * self._unit_ms
            held = int(sessions * hard_ms / max(hard_ms, self._worst_ms))
            return min(self._slots, max(1, held))
        if now >= self._ceiling_until:
            self._ceiling, self._ceiling_until = sessions + 1, now + WINDOW_S
        return max(sessions, min(self._slots, self._ceiling, sessions + 1))

    def _level_at(self, worst_ms: float, has_dropped: bool) -> Level:
        if worst_ms > HARD * self._unit_ms or has_dropped:
            return "full"
        return "tight" if worst_ms > EASY * self._unit_ms else "easy"
