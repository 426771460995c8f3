"""How far a child's start is. Front."""

from __future__ import annotations

from msgspec import Struct

from server.front.supervisor import Supervised


class Starting(Struct, frozen=True):
    """A child's start, for people."""

    doing: str
    percent: int | None
    """Of a download; None: it is not counted."""
    step_s: float
    """How long it has been doing this."""
    since_s: float
    """How long it has been starting."""

    @classmethod
    def of(cls, child: Supervised, now: float) -> Starting:
        progress = child.progress
        return cls(
            "loading the program" if progress is None else progress.text,
            None if progress is None else progress.percent,
            round(now - child.step_at, 1),
            round(now - child.started_at, 1),
        )
