"""Speech turns of all slots: which condition rows are spoken, how far, and what ends a turn.

Owned by the runner. Rows of one call decode in lock-step; what a row gets does not depend on the
others. A turn's past is its slot in the decoder's cache; an empty slot is the start of a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.kv.cache import NativeKV
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.models.talker.sampling import DUPLEX, TURN_BASED, SpeechSampling
from engine.minicpmo.models.talker.tts import SpeechDecoder
from engine.minicpmo.models.unit import RELEASED_UNIT, UnitSpec
from engine.minicpmo.speech.talker_decoding import DecodingRow, Observe, TalkerDecoding
from engine.minicpmo.speech.talker_rows import PREFILL_WIDTH, TalkerRow, TalkerRows

MAX_GROUP_CODES = 500
MIN_WHOLE_CODES = 50
MAX_WHOLE_CODES = 2048


@dataclass(frozen=True, eq=False)
class TalkerInput:
    """What one slot is to say now."""

    slot: int
    ids: Tensor
    """Spoken tokens [T], T may be 0."""
    hidden: Tensor
    """Their states after the final norm, where they were fed [T, llm_dim]."""
    draws: Draws
    ends: bool = False
    """Duplex: the turn ends with this unit. Otherwise: no text follows."""
    sampling: SpeechSampling | None = None
    end_at: int | None = None
    """Replay only: force the end code at this step."""


@dataclass
class _Turn:
    """A turn being spoken, beside what its cache row holds."""

    codes: list[int] = field(default_factory=list)
    """Of a turn-based reply."""
    units: int = 0
    """Of a duplex turn that were begun."""


class TalkerUnit:
    """One duplex unit of some slots while it is being spoken."""

    def __init__(
        self, codes: Talker, batch: Sequence[TalkerInput], decoding: TalkerDecoding
    ) -> None:
        self._codes, self._batch, self._decoding = codes, batch, decoding
        self._left = decoding.most_codes

    def more(self, count: int | None = None) -> list[list[int]]:
        """The next codes of each slot, at most `count`; without it all that the unit has."""
        count = self._left if count is None else min(count, self._left)
        with torch.inference_mode():
            found = self._decoding.more(count)
            self._left -= count
            if not self._left:
                self._decoding.finish()
                for speak in self._batch:
                    if speak.ends:
                        self._codes.reset(speak.slot)
        return found


class Talker:
    """The decoder's cache and the turns in it."""

    def __init__(
        self,
        decoder: SpeechDecoder,
        num_slots: int,
        max_len: int | None = None,
        graphs: GraphPool | None = None,
        *,
        unit: UnitSpec = RELEASED_UNIT,
    ) -> None:
        """`max_len`: condition rows and codes of a turn that a slot holds, the model's most if
        not given; a turn that outgrows them forgets its beginning."""
        self.decoder = decoder
        self._unit = unit
        self.observe: Observe | None = None
        """Hook of replays and benchmarks; a server sets none."""
        self.kv = NativeKV(decoder.cache_spec(max_len), num_slots)
        self.graphs = GraphPool(decoder.device, enabled=False) if graphs is None else graphs
        self._rows = TalkerRows(decoder, self.kv, num_slots, self.graphs)
        self._turns = [_Turn() for _ in range(num_slots)]

    def warm_up(self, most_rows: int, show: Callable[[str], None]) -> None:
        """Run all usual shapes once, within `graphs.capturing()`: sessions then find graphs."""
        with torch.inference_mode(), self.graphs.capturing():
            show(f"speech codes: graphs for up to {most_rows} rows")
            self._rows.warm_up(most_rows)

    def is_turn_start(self, slot: int) -> bool:
        return self.kv.lengths[slot] == 0

    def reset(self, slot: int) -> None:
        """End the slot's turn, whatever it was: turn end, interruption, forced listening."""
        self.kv.truncate(slot, 0)
        self._turns[slot] = _Turn()

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.reset(slot)
        self.kv.reset([slot])

    def duplex(self, batch: Sequence[TalkerInput]) -> list[list[int]]:
        """Codes of one duplex unit for each slot: `UnitSpec.codes` in mid-turn, at most as many in
        its first and last.

        Rows of a unit are its spoken tokens but the first decoded one, the end-of-turn token
        included; without any, the begin-of-audio row alone is spoken on.
        """
        return self.begin_unit(batch).more()

    @torch.inference_mode()
    def begin_unit(self, batch: Sequence[TalkerInput]) -> TalkerUnit:
        """Begin what `duplex` does whole; take all codes before anything else is spoken."""
        spoken = []
        for speak in batch:
            is_first, turn = self.is_turn_start(speak.slot), self._turns[speak.slot]
            most = self._unit.codes(turn.units)
            turn.units += 1
            count = len(speak.ids) + 1
            self._make_room(speak.slot, count + most)
            row = TalkerRow(
                speak.slot,
                speak.sampling or DUPLEX,
                min_codes=0 if is_first or speak.ends else most + 1,
                count=count,
                end_at=speak.end_at,
            )
            spoken.append(DecodingRow(row, speak.draws, most))
        decoding = TalkerDecoding(self._rows, spoken, self.observe)
        if max(s.row.count for s in spoken) <= PREFILL_WIDTH:
            decoding.begin(words=[(speak.ids, speak.hidden) for speak in batch])
        else:
            # The duplex path normalises whatever the configuration says.
            decoding.begin([self.decoder.condition(s.ids, s.hidden, normalize=True) for s in batch])
        return TalkerUnit(self, batch, decoding)

    @torch.inference_mode()
    def group(self, batch: Sequence[TalkerInput], *, whole: bool = False) -> list[list[int]]:
        """Codes of one group of tokens of a turn-based reply; `whole`: of a whole reply at once.

        With `TalkerInput.ends` the reply is over: the end-of-text row is appended, and the slot's
        turn is reset afterwards.
        """
        spoken, feeds = [], []
        for speak in batch:
            turn = self._turns[speak.slot]
            feed = self.decoder.condition(
                speak.ids,
                speak.hidden,
                normalize=self.decoder.config.normalize_projected_hidden,
                text_ends=speak.ends,
            )
            most = MAX_WHOLE_CODES if whole else MAX_GROUP_CODES
            self._make_room(speak.slot, min(len(feed) + most, self.kv.max_len))
            most = min(most, self.kv.max_len - self.kv.lengths[speak.slot] - len(feed))
            row = TalkerRow(
                speak.slot,
                speak.sampling or TURN_BASED,
                min_codes=MIN_WHOLE_CODES if whole else 0,
                count=len(feed),
                recent=list(turn.codes),
                spares_first=not turn.codes,
                end_at=speak.end_at,
            )
            spoken.append(DecodingRow(row, speak.draws, most))
            feeds.append(feed)
        decoding = TalkerDecoding(self._rows, spoken, self.observe)
        decoding.begin(feeds)
        decoding.more(decoding.most_codes)
        decoding.finish()
        for speak, done in zip(batch, spoken, strict=True):
            self._turns[speak.slot].codes += done.codes
            if speak.ends:
                self.reset(speak.slot)
        return [done.codes for done in spoken]

    def _make_room(self, slot: int, count: int) -> None:
        """Forget the oldest of a turn that outgrows its row (after a minute and a half)."""
        excess = self.kv.lengths[slot] + count - self.kv.max_len
        if excess > 0:
            # Half at once: cutting moves all that stays.
            drop = min(max(excess, self.kv.max_len // 2), self.kv.lengths[slot])
            self.kv.remove(slot, 0, drop, self.decoder.rope)
