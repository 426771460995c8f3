"""The progress of a child's start. Front."""

from __future__ import annotations

from msgspec import Struct

from server.front.supervisor import Supervised


class Starting(Struct, frozen=True):
    """A child's start, for people."""

    doing: str
    percent: int | None
    """Of a download; None: it is not counted."""
    step_s: float
    """Time spent on this step so far."""
    since_s: float
    """Time since the start began."""

    @classmethod
    def of(cls, child: Supervised, now: float) -> Starting:
        progress = child.progress
        return cls(
            "loading the program" if progress is None else progress.text,
            None if progress is None else progress.percent,
            round(now - child.step_at, 1),
            round(now - child.started_at, 1),
        )
