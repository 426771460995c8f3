"""A lock-step decode of speech codes as the host sees it: draws, ends, and what the cache keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.speech.talker_rows import BLOCK, COLUMNS, Drawn, TalkerRow, TalkerRows

Observe = Callable[[list[int], Tensor, Tensor, Tensor], None]
"""Called after each forward with the rows' indices, hidden states, raw scores and scores."""


@dataclass
class DecodingRow:
    """One row of a decode under way."""

    row: TalkerRow
    draws: Draws
    max_codes: int
    codes: list[int] = field(default_factory=list)
    ended: bool = False
    """It drew the end code."""
    closed: bool = False
    """Its last code was fed after it had as many as it may have."""

    @property
    def is_done(self) -> bool:
        return self.ended or len(self.codes) >= self.max_codes

    def peek(self, first: int = 0, count: int = COLUMNS) -> list[float]:
        """Numbers that the next block of codes is drawn by, from the `first` on."""
        if self.is_done or self.row.settings.greedy:
            return [0.0] * count
        ahead = Draws(self.draws.seed, self.draws.count + first)
        return [ahead.next() for _ in range(count)]

    def take(self, codes: Sequence[int], end_code: int) -> None:
        """Take what was drawn, as far as it counts, and the numbers that it was drawn by."""
        for code in codes:
            if self.is_done:
                return
            self.draws.count += not self.row.settings.greedy
            self.ended = code == end_code
            if not self.ended:
                self.codes.append(code)


class TalkerDecoding:
    """Some rows being decoded in lock-step; all codes they keep are then in the cache, no other.

    Rows that are done run on with the others; what follows their end is not kept.
    """

    def __init__(
        self,
        rows: TalkerRows,
        spoken: list[DecodingRow],
        observe: Observe | None,
    ) -> None:
        self._rows, self._spoken = rows, spoken
        self._observe = observe
        self._drawn = self._fetched = 0
        """Codes of the block that were drawn, and those of them that the host knows."""

    @property
    def most_codes(self) -> int:
        """Of the rows, codes of the one that may have most."""
        return max(s.max_codes for s in self._spoken)

    def begin(
        self,
        feed: Sequence[Tensor] | None = None,
        words: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Feed the condition, see `TalkerRows.prefill`."""
        draws = [s.peek(0, 1) for s in self._spoken]
        forward = self._rows.prefill([s.row for s in self._spoken], draws, feed, words)
        # Hashing takes the host as long as the prefill takes the GPU.
        self._rows.put_draws([s.peek(1, COLUMNS - 1) for s in self._spoken], 1)
        self._after(forward)

    def more(self, count: int) -> list[list[int]]:
        """At most `count` further codes of each row; fewer where it ends."""
        before = [len(s.codes) for s in self._spoken]
        goal = [done + count for done in before]
        while True:
            self._take()
            lacking = [
                wanted - len(s.codes)
                for s, wanted in zip(self._spoken, goal, strict=True)
                if not s.is_done and len(s.codes) < wanted
            ]
            if not lacking:
                break
            if self._drawn == BLOCK:
                self._rows.put_draws([s.peek() for s in self._spoken])
                self._drawn = self._fetched = 0
            for _ in range(min(max(lacking), BLOCK - self._drawn, self._stride)):
                self._advance()
        return [s.codes[done:] for s, done in zip(self._spoken, before, strict=True)]

    def finish(self) -> None:
        """Feed the last codes and count what the cache holds."""
        if not all(s.ended for s in self._spoken):
            self._advance()
        kv = self._rows.kv
        for spoken in self._spoken:
            kv.advance([spoken.row.slot], [spoken.row.count + len(spoken.codes)])

    @property
    def _stride(self) -> int:
        """Forwards that may pass unseen."""
        return BLOCK if self._observe is None else 1

    def _advance(self) -> None:
        self._after(self._rows.step())

    def _after(self, forward: Drawn) -> None:
        self._drawn += 1
        if self._observe is None:
            return
        alive = [i for i, s in enumerate(self._spoken) if not (s.ended or s.closed)]
        for index in alive:
            self._spoken[index].closed = self._spoken[index].is_done
        self._observe(alive, forward.hidden[alive], forward.raw[alive], forward.scores[alive])

    def _take(self) -> None:
        """Look at what was drawn since the last look."""
        if self._drawn == self._fetched:
            return
        found = self._rows.fetch(len(self._spoken), self._fetched, self._drawn)
        for spoken, codes in zip(self._spoken, found, strict=True):
            spoken.take(codes, self._rows.decoder.end_code)
        self._fetched = self._drawn
