"""Keeps the ends of sessions' units in their places within a period, see `UnitGroups`."""

from __future__ import annotations

from dataclasses import dataclass

from engine.ipc.protocol import INPUT_HZ
from engine.minicpmo.session.session import Session

PHASES = 2
"""Groups, evenly spread over a unit: more would have smaller batches, one would leave the GPU
idle for half of the time."""
NEAR_S = 0.02
"""Units that end so little before their place are in it."""


class UnitGroups:
    """Which session ends its units with which others. Owned by the model's thread.

    Calls begin at random, but a batch of many units costs little more than one unit. The end of a
    session's units is moved by putting silence in front of its sound: a unit then ends earlier than
    it would have, and nobody waits.
    """

    def __init__(self, count: int, period_s: float) -> None:
        """`count` 0: nothing is moved. `period_s`: length of a unit."""
        self._count = count
        self._period_s = period_s
        self._groups: dict[int, int] = {}
        self._origin = 0.0
        """An end of the first group's units, on the monotonic clock."""

    def join(self, slot: int, end: float) -> float:
        """Seconds of silence, less than a period, that put a session's next unit's `end` in place.

        It gets the smallest group, of equal ones the one that needs less silence.
        """
        self.leave(slot)
        if not self._count:
            return 0.0
        if not self._groups:
            self._origin = end
        taken = list(self._groups.values())
        sizes = [taken.count(group) for group in range(self._count)]
        smallest = [group for group, size in enumerate(sizes) if size == min(sizes)]
        lead, group = min((self._lead(group, end), group) for group in smallest)
        self._groups[slot] = group
        return lead

    def leave(self, slot: int) -> None:
        self._groups.pop(slot, None)

    def late(self, slot: int, end: float) -> float:
        """Seconds that a unit's end is behind its place, half a period at most."""
        group = self._groups.get(slot)
        if group is None:
            return 0.0
        half = self._period_s / 2
        return (self._behind(group, end) + half) % self._period_s - half

    def _lead(self, group: int, end: float) -> float:
        lead = self._behind(group, end)
        # Do not add a whole period of silence for sound that is nearly in place.
        return 0.0 if lead > self._period_s - NEAR_S else lead

    def _behind(self, group: int, end: float) -> float:
        start = self._origin + self._period_s * group / self._count
        return (end - start) % self._period_s


MOST_DRIFT_S = 0.08
"""A session whose units end so far from their group's, on average, is put in its place again."""
MOST_JITTER_S = 0.3
"""Of the time between two units; what comes faster or slower is no call in real time."""
DRIFT_SHARE = 0.1
"""Of the newest unit in that average: packets are late now and then, clocks run away slowly."""


@dataclass
class _Course:
    """How the units of a session have come."""

    due: float
    """When the newest one was complete."""
    drift: float = 0.0
    """Seconds that they end behind their group's, on average."""


class UnitAlignment:
    """Owned by the model's thread."""

    def __init__(self, phases: int, period_s: float) -> None:
        """`phases`: groups. `period_s`: length of a unit."""
        self._groups = UnitGroups(phases, period_s)
        self._period_s = period_s
        self._courses: dict[int, _Course] = {}

    def hears(self, session: Session, count: int, arrived: float) -> None:
        """Sound of `count` samples has come; the first of a session places its units."""
        if not session.audio_input.is_placed:
            lacking = -(session.audio_input.pending + count) % round(self._period_s * INPUT_HZ)
            self._place(session, arrived + lacking / INPUT_HZ)

    def took(self, session: Session, due: float) -> None:
        """A unit that was complete at `due` is taken.

        A session whose sound has run away from its place is put there again, while it is silent.
        """
        course = self._courses.setdefault(session.slot, _Course(due))
        before, course.due = course.due, due
        if abs(due - before - self._period_s) > MOST_JITTER_S * self._period_s:
            # Not in real time: there is no alignment to keep.
            course.drift = 0.0
            return
        course.drift += DRIFT_SHARE * (self._groups.late(session.slot, due) - course.drift)
        if abs(course.drift) > MOST_DRIFT_S and not session.audio_input.is_user_speaking:
            self._place(session, due + self._period_s)

    def leave(self, slot: int) -> None:
        self._groups.leave(slot)
        self._courses.pop(slot, None)

    def _place(self, session: Session, end: float) -> None:
        """Without silence the next unit would end at `end`."""
        # With a seed the same sound gives the same answers, whatever other sessions there are.
        seeded = session.config.sampling.seed is not None
        lead = 0.0 if seeded else self._groups.join(session.slot, end)
        session.audio_input.place(round(lead * INPUT_HZ))
        self._courses.pop(session.slot, None)
