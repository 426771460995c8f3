"""Which of the sessions that have something to read goes on with it."""

from __future__ import annotations

from collections.abc import Sequence

PIECES_IN_A_ROW = 16
"""Of one message, before another one that waits has its turn: a long text has eight."""


class ReadingRota:
    """Owned by a mode: the slots of its sessions take turns."""

    def __init__(self) -> None:
        self._last = -1
        self._in_a_row = 0

    def next(self, reading: Sequence[int]) -> int:
        """Return the slot that read last, for some pieces: two halves of messages are no answer."""
        self._in_a_row += 1
        if self._last not in reading or self._in_a_row > PIECES_IN_A_ROW:
            self._last = min(reading, key=lambda slot: (slot <= self._last, slot))
            self._in_a_row = 1
        return self._last
