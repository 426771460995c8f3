"""Keeps the ends of sessions' units in their places within a second, see `UnitGroups`."""

from __future__ import annotations

from dataclasses import dataclass

from engine.ipc.protocol import INPUT_HZ
from engine.minicpmo.session.session import Session

PHASES = 2
"""Groups, evenly spread over a second: more would have smaller batches, one would leave the GPU
idle for half of the time."""
NEAR_S = 0.02
"""Units that end so little before their place are in it."""


class UnitGroups:
    """Which session ends its units with which others. Owned by the model's thread.

    Calls begin at random, but a batch of many units costs little more than one unit. The end of a
    session's units is moved by putting silence in front of its sound: a unit then ends earlier than
    it would have, and nobody waits.
    """

    def __init__(self, count: int = PHASES) -> None:
        """`count` 0: nothing is moved."""
        self._count = count
        self._groups: dict[int, int] = {}
        self._origin = 0.0
        """An end of the first group's units, on the monotonic clock."""

    def join(self, slot: int, end: float) -> float:
        """Seconds of silence, less than one, that put a session's next unit's `end` in place.

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
        """How many seconds behind its place a unit's end is, from -0.5 to 0.5."""
        group = self._groups.get(slot)
        if group is None:
            return 0.0
        return (self._behind(group, end) + 0.5) % 1.0 - 0.5

    def _lead(self, group: int, end: float) -> float:
        lead = self._behind(group, end)
        # A second of silence for what is nearly in place would be absurd.
        return 0.0 if lead > 1.0 - NEAR_S else lead

    def _behind(self, group: int, end: float) -> float:
        return (end - self._origin - group / self._count) % 1.0


MOST_DRIFT_S = 0.08
"""A session whose units end so far from their group's, on average, is put in its place again."""
MOST_JITTER_S = 0.3
"""Of units a second apart; what comes faster or slower is no call in real time."""
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

    def __init__(self, phases: int = PHASES) -> None:
        self._phases = UnitGroups(phases)
        self._courses: dict[int, _Course] = {}

    def hears(self, session: Session, count: int, arrived: float) -> None:
        """Sound of `count` samples has come; the first of a session places its units."""
        if not session.audio_input.is_placed:
            lacking = -(session.audio_input.pending + count) % INPUT_HZ
            self._place(session, arrived + lacking / INPUT_HZ)

    def took(self, session: Session, due: float) -> None:
        """A unit that was complete at `due` is taken.

        A session whose sound has run away from its place is put there again, while it is silent.
        """
        course = self._courses.setdefault(session.slot, _Course(due))
        before, course.due = course.due, due
        if abs(due - before - 1) > MOST_JITTER_S:
            # Not in real time: there is no place to keep.
            course.drift = 0.0
            return
        course.drift += DRIFT_SHARE * (self._phases.late(session.slot, due) - course.drift)
        if abs(course.drift) > MOST_DRIFT_S and not session.audio_input.is_user_speaking:
            self._place(session, due + 1)

    def leave(self, slot: int) -> None:
        self._phases.leave(slot)
        self._courses.pop(slot, None)

    def _place(self, session: Session, end: float) -> None:
        """Without silence the next unit would end at `end`."""
        session.audio_input.is_placed = True
        # With a seed the same sound gives the same answers, whoever else is served.
        if session.config.sampling.seed is None:
            lead = self._phases.join(session.slot, end)
            session.audio_input.add_silence(round(lead * INPUT_HZ))
        self._courses.pop(session.slot, None)
