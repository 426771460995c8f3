"""Where in each second the units of sessions end: a few groups, so that a group shares a batch."""

from __future__ import annotations

PHASES = 2
"""Groups, evenly spread over a second: more would have smaller batches, one would leave the GPU
idle for half of the time."""
NEAR_S = 0.02
"""Units that end so little before their place are in it."""


class Phases:
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
