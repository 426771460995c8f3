"""What one unit of full duplex is while it is decided, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

from engine.ipc.protocol import TokenSplit
from engine.minicpmo.llm.context_window import ContextWarning, Media


@dataclass(frozen=True)
class SpokenToken:
    """One token for the speech decoder."""

    id: int
    hidden: Tensor | None
    """[C], the state after feeding this token."""


@dataclass(frozen=True)
class UnitResult:
    """What one unit came to."""

    unit: int
    is_listen: bool
    text: str
    spoken: tuple[SpokenToken, ...]
    """For the speech decoder; may be empty although `wants_speech`."""
    wants_speech: bool
    """The speech decoder runs, if only to go on with what it has."""
    is_turn_start: bool
    """First speech of a turn: the speech decoder starts empty."""
    end_of_turn: bool
    """Last speech of a turn: everything held back is to be synthesised."""
    is_cut: bool
    """The turn was broken off: speech decoder and vocoder forget it without a sound."""
    num_tokens: int
    terminator: int
    kv_length: int
    """Positions in the cache, without the terminator and `</unit>`."""
    made_from: TokenSplit
    """What stands in the cache; that of the turn's first unit and since was read for it."""
    warning: ContextWarning | None = None


class UnitPhase(Enum):
    CLOSED = "closed"
    """Not prepared."""
    IDLE = "idle"
    """Between units; a tail may be left to feed."""
    DECIDING = "deciding"
    """The newest logits wait for a decision, or a chosen token waits to be fed."""
    DONE = "done"
    """The unit is over; its result waits to be taken."""


@dataclass
class Unit:
    """One unit while it is decided."""

    start: int
    """Position of `<unit>`."""
    step: int = 0
    spoken: list[SpokenToken] = field(default_factory=list)
    chosen: int | None = None
    """Decided but not yet fed."""
    ends_turn: bool = False
    """The last token fed was the turn's end."""
    terminator: int | None = None
    is_cut: bool = False
    media: Media = Media()
