"""How much of the context a scripted session pretends to have used."""

from __future__ import annotations

from typing import Literal

from engine.scripted.script import ContextFigures

WARN_AT = (0.8, 0.9, 0.95)
"""As the native engine does."""


class ContextGauge:
    """Owns the count of one session's tokens."""

    def __init__(self, figures: ContextFigures) -> None:
        self._figures = figures
        self.tokens = figures.start
        self._warned = 0

    @property
    def limit(self) -> int:
        return self._figures.limit

    @property
    def is_full(self) -> bool:
        return self.tokens >= self.limit

    def unit(self, words: int) -> None:
        """Count a unit in which so many words were said."""
        self.tokens += self._figures.per_unit + words

    def set(self, tokens: int) -> None:
        self.tokens = tokens
        self._warned = min(self._warned, self._level())

    def slide(self) -> None:
        """Forget the oldest."""
        self.set(round(self.limit * self._figures.slide_to))

    def warning(self, policy: Literal["slide", "end"]) -> str:
        """What the user is to be told now, once for each of `WARN_AT`; empty: nothing."""
        level = self._level()
        if level <= self._warned:
            return ""
        self._warned = level
        what = "the call will end" if policy == "end" else "older parts will be forgotten"
        share = 100 * self.tokens // self.limit
        return f"{share} % of what the model can remember is used; beyond it {what}"

    def _level(self) -> int:
        return sum(self.tokens >= share * self.limit for share in WARN_AT)
