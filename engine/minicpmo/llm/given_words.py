"""Words that a turn of full duplex has to say as they are, a few in each unit."""

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

    def give(self, ids: Sequence[int], max_chars: int) -> None:
        """Have these words said by the next turn, but for those that no unit is long enough for."""
        fits = [i for i in ids if len(self._tokens.decode([i])) < max_chars]
        self._waiting.extend(fits)
        self.is_saying = bool(fits)

    def next(self, unit: Unit, max_tokens: int) -> int:
        """The id that has to be chosen next in the unit under way; -1: any."""
        tokens = self._tokens
        if not self.is_saying:
            return -1
        if unit.step == 0:
            return tokens.speak
        most = min(WORDS_A_UNIT, max_tokens - 3)
        if self._waiting:
            return self._waiting[0] if unit.step <= most else tokens.chunk_eos
        return tokens.chunk_eos if unit.ends_turn else tokens.turn_eos

    def fed(self, token: int, step: int) -> None:
        """Take a token that was fed as this step of its unit."""
        if self.is_saying and step > 0 and self._waiting and token == self._waiting[0]:
            self._waiting.popleft()

    def forget(self) -> None:
        self._waiting.clear()
        self.is_saying = False
