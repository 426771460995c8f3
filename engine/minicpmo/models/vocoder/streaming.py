"""What a call of the vocoder does with each row of a batch, counted on the host.

Rows with equal plans have equal shapes. Rows whose plans differ run together in shapes that have
room for all: each then has counts of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

DELAY_FRAMES = 8
"""Mel frames that the stream lags behind what it was given, until its end."""
HISTORY_FRAMES = 31
"""Frames before the new ones that the causal filter is given again; its layers reach 22 back."""
MEL_FRAMES = HISTORY_FRAMES + DELAY_FRAMES
"""Frames that are needed again at most."""


@dataclass(frozen=True)
class VoiceStream:
    """One turn's counters, in frames from the beginning of the turn."""

    begin: int = 0
    """The first frame that the slot's row keeps."""
    received: int = 0
    sourced: int = 0
    """Those that have an excitation for good."""
    emitted: int = 0
    ended: bool = False

    @property
    def kept(self) -> int:
        """Frames in the slot's row."""
        return self.received - self.begin

    def after(self, frames: int, last: bool, *, lag: int, history: int) -> VoiceStream:
        """Where a call with so many frames takes it.

        `lag`: frames that F0 looks ahead; `history`: heard frames that are needed again.
        """
        received = self.received + frames
        emitted = received if last else max(self.emitted, received - DELAY_FRAMES)
        return VoiceStream(
            begin=max(emitted - history, 0),
            received=received,
            sourced=received if last else max(self.sourced, received - lag),
            emitted=emitted,
            ended=last,
        )


@dataclass(frozen=True)
class Plan:
    """What a call does with a row, in mel frames."""

    kept: int
    """Of the calls before; what follows counts from the first of them."""
    frames: int
    """New ones."""
    sourced: int
    """Those whose excitation is kept, too."""
    f0_first: int
    """Where the input of F0 begins."""
    f0_history: int
    """Frames of that input whose F0 was known before."""
    f0_count: int
    """Frames that get an F0."""
    forgotten: int
    """What the next call does not need."""
    last: bool

    def numbers(self) -> list[int]:
        return [getattr(self, name) for name in NUMBERS]

    def holds(self, other: Plan) -> bool:
        """Whether a row with the other plan has room in this one's shapes."""
        mine, theirs = self.numbers(), other.numbers()
        return self.last >= other.last and all(a >= b for a, b in zip(mine, theirs, strict=True))

    @staticmethod
    def room(plans: Sequence[Plan]) -> Plan:
        """The least that holds all these."""
        columns = zip(*(plan.numbers() for plan in plans), strict=True)
        most = {name: max(column) for name, column in zip(NUMBERS, columns, strict=True)}
        return Plan(**most, last=any(plan.last for plan in plans))


NUMBERS = tuple(field.name for field in fields(Plan) if field.name != "last")


@dataclass(frozen=True)
class Shape:
    """What decides the shapes of a call."""

    rows: int
    plan: Plan
    is_ragged: bool = False
    """Each row has a plan of its own, for which `plan` is the room."""
