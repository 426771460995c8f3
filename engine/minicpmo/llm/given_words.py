"""What a turn of full duplex has to say: given words, a few in each unit, or anything at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from engine.minicpmo.llm.duplex_unit import Unit
from engine.minicpmo.llm.tokenizer import OmniTokenizer

WORDS_A_UNIT = 4
"""As many as the model itself says in a second."""


class GivenWords:
    """Owns the words that the next turn has to say, and are not said yet."""

    def __init__(self, tokens: OmniTokenizer) -> None:
        self._tokens = tokens
        self._waiting: deque[int] = deque()
        self.is_saying = False
        """The turn that begins with the next unit, or is under way, says them."""
        self._begins = False
        """The next unit begins a turn in the model's own words."""

    @property
    def is_due(self) -> bool:
        """The next unit begins a turn, or one that says given words is under way."""
        return self.is_saying or self._begins

    def begin(self) -> None:
        """Have the next unit begin a turn, whatever it says."""
        self._begins = True

    def give(self, ids: Sequence[int], max_chars: int) -> None:
        """Have these words said by the next turn, but for those that no unit is long enough for."""
        fits = [i for i in ids if len(self._tokens.decode([i])) < max_chars]
        self._waiting.extend(fits)
        self.is_saying = bool(fits)

    def next(self, unit: Unit, max_tokens: int) -> int:
        """The id that has to be chosen next in the unit under way; -1: any."""
        tokens = self._tokens
        if unit.step == 0 and self.is_due:
            return tokens.speak
        if not self.is_saying:
            return -1
        most = min(WORDS_A_UNIT, max_tokens - 3)
        if self._waiting:
            return self._waiting[0] if unit.step <= most else tokens.chunk_eos
        return tokens.chunk_eos if unit.ends_turn else tokens.turn_eos

    def fed(self, token: int, step: int) -> None:
        """Take a token that was fed as this step of its unit."""
        self._begins = False
        if self.is_saying and step > 0 and self._waiting and token == self._waiting[0]:
            self._waiting.popleft()

    def forget(self) -> None:
        self._waiting.clear()
        self.is_saying = self._begins = False
