"""A session that rests at its user's wish: nothing is taken, and its slot is kept a while.

Owns the slot for whoever else gives it up or loses it (`server.worker.absence`, a dead engine)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from server.worker.audience import Audience
from signaling.session import events as ev
from signaling.session.core import Asker

WARNED_S = 15.0
"""So long before the slot is given away the user is told."""


class Pause:
    """Owns whether the session rests, and whether it has its slot; call `look` once a second."""

    def __init__(
        self,
        keep_s: float,
        audience: Audience,
        *,
        give_away: Callable[[], None],
        take_again: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`give_away` frees the slot; `take_again` asks for one, and `served` follows."""
        self._keep_s = keep_s
        self._audience = audience
        self._give_away = give_away
        self._take_again = take_again
        self._clock = clock
        self._since = 0.0
        self._is_told = False
        self._has_slot = True
        self._is_waiting = False
        """A slot was asked for, and has not come yet."""
        self._kept: Literal["everything", "words"] = "everything"
        """What the session still has of the conversation when it goes on."""
        self.is_on = False

    def begin(self, by: Asker | None = None) -> None:
        """Rest from now on; once more does nothing but tell."""
        if not self.is_on:
            self.is_on, self._is_told, self._since = True, False, self._clock()
        self._audience.emit(self.told(), by)

    def told(self) -> ev.CallPaused:
        """What is told of a pause that is on."""
        left_s = max(0.0, self._keep_s - (self._clock() - self._since)) if self._has_slot else 0.0
        return ev.CallPaused(slot_kept_s=round(left_s, 1))

    def end(self, by: Asker | None = None) -> None:
        """Go on; where the slot is given away, when there is one again."""
        self.is_on = False
        if self._has_slot:
            self._resumed(by)
        else:
            self.need_slot()

    def need_slot(self) -> None:
        """Ask for a slot, where there is none and nobody pauses."""
        if not (self.is_on or self._has_slot or self._is_waiting):
            self._is_waiting = True
            self._take_again()

    def give_up_slot(self) -> None:
        """Let somebody else have the slot; words are kept."""
        if self._has_slot:
            self._has_slot, self._kept = False, "words"
            self._give_away()

    def lost_slot(self) -> None:
        """The engine is gone, and the slot with it; `need_slot` asks for another one."""
        self._has_slot, self._is_waiting, self._kept = False, False, "words"

    def look(self) -> None:
        """Notice what time it is."""
        if not self.is_on or not self._has_slot:
            return
        left_s = self._keep_s - (self._clock() - self._since)
        if left_s <= 0:
            told = "The pause was long, so others may speak: going on may take a wait."
            self._audience.emit(ev.Notice(code="slot_given_away", message=told))
            self.give_up_slot()
        elif left_s <= WARNED_S and not self._is_told:
            self._is_told = True
            told = f"In {left_s:.0f} s others may take this place; go on to keep it."
            self._audience.emit(ev.Notice(code="pause_ends_soon", message=told))

    def served(self) -> None:
        """There is a slot again, with what was written down of the conversation."""
        self._has_slot, self._is_waiting = True, False
        if self.is_on:
            # Who has paused again meanwhile keeps this slot as any other.
            self.is_on = False
            self.begin()
        else:
            self._resumed()

    def _resumed(self, by: Asker | None = None) -> None:
        kept, self._kept = self._kept, "everything"
        self._audience.emit(ev.CallResumed(kept=kept), by)
