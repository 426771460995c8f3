"""Speech turns of all slots: which condition rows are spoken, how far, and what ends a turn.

Owned by the runner. Rows of one call decode in lock-step; what a row gets does not depend on the
others. A turn's past is its slot in the decoder's cache; an empty slot is the start of a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.kvcache import SlotKV
from engine.models.config import ConfigError
from engine.models.tts import SpeechDecoder
from engine.models.tts_sampling import DUPLEX, TURN_BASED, Choice, SpeechSampling, choose, scores
from engine.sampling import Draws

CODES_PER_UNIT = 25
"""One second of speech: what a duplex unit gives in the middle of a turn, and at most."""
MAX_GROUP_CODES = 500
MIN_WHOLE_CODES = 50
MAX_WHOLE_CODES = 2048

ATTENTION_TYPES = ("full_attention", "sliding_window", "sliding_recompute", "reindex")

FORCED_LOGIT = 10_000.0

Observe = Callable[[list[int], Tensor, Tensor, Tensor], None]
"""Called after each forward with the rows' indices, hidden states, raw scores and scores."""


@dataclass(frozen=True, eq=False)
class Speak:
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
class _Row:
    """One row of a lock-step decode."""

    slot: int
    feed: Tensor
    settings: SpeechSampling
    draws: Draws
    min_codes: int
    max_codes: int
    before: list[int] = field(default_factory=list)
    """Earlier codes of the turn that the penalty sees."""
    cut_first: bool = True
    end_at: int | None = None
    codes: list[int] = field(default_factory=list)

    def choice(self) -> Choice:
        return Choice(
            self.settings,
            [*self.before, *self.codes],
            may_end=len(self.codes) >= self.min_codes,
            is_first=not self.cut_first and not self.before and not self.codes,
        )


@dataclass
class _Turn:
    """A turn-based reply being spoken, beside what its cache row holds."""

    codes: list[int] = field(default_factory=list)
    condition: Tensor | None = None
    """Of the last group."""
    last_codes: list[int] = field(default_factory=list)
    first_length: int = 0
    """Cache entries of the first group."""


class SpeechCodes:
    """The decoder's cache and the turns in it."""

    def __init__(self, decoder: SpeechDecoder, num_slots: int, max_len: int | None = None) -> None:
        kind = decoder.config.attention_type
        if kind not in ATTENTION_TYPES:
            raise ConfigError(f"tts_config: attention_type {kind!r}; known are {ATTENTION_TYPES}")
        self.decoder = decoder
        self.kv: SlotKV = decoder.make_cache(num_slots, max_len)
        self._turns = [_Turn() for _ in range(num_slots)]

    def reset(self, slot: int) -> None:
        """End the slot's turn, whatever it was: turn end, interruption, forced listening."""
        self.kv.truncate(slot, 0)
        self._turns[slot] = _Turn()

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.reset(slot)
        self.kv.reset([slot])

    @torch.inference_mode()
    def duplex(self, batch: Sequence[Speak], observe: Observe | None = None) -> list[list[int]]:
        """Codes of one duplex unit for each slot: 25 in mid-turn, up to 25 in its first and last.

        Rows of a unit are its spoken tokens but the first decoded one, the end-of-turn token
        included; without any, the begin-of-audio row alone is spoken on.
        """
        rows = []
        for speak in batch:
            # The duplex path normalises whatever the configuration says.
            condition = self.decoder.condition(speak.ids, speak.hidden, normalize=True)
            is_first = self.kv.lengths[speak.slot] == 0
            self._make_room(speak.slot, len(condition) + CODES_PER_UNIT)
            rows.append(
                _Row(
                    speak.slot,
                    condition,
                    speak.sampling or DUPLEX,
                    speak.draws,
                    min_codes=0 if is_first or speak.ends else CODES_PER_UNIT + 1,
                    max_codes=CODES_PER_UNIT,
                    end_at=speak.end_at,
                )
            )
        self._decode(rows, observe)
        for speak in batch:
            if speak.ends:
                self.reset(speak.slot)
        return [row.codes for row in rows]

    @torch.inference_mode()
    def group(
        self,
        batch: Sequence[Speak],
        *,
        whole: bool = False,
        observe: Observe | None = None,
    ) -> list[list[int]]:
        """Codes of one group of tokens of a turn-based reply; `whole`: of a whole reply at once.

        With `Speak.ends` the reply is over: the end-of-text row is appended, and the slot's turn
        is reset afterwards.
        """
        rows = []
        for speak in batch:
            turn = self._turns[speak.slot]
            condition = self.decoder.condition(
                speak.ids,
                speak.hidden,
                normalize=self.decoder.config.normalize_projected_hidden,
                text_ends=speak.ends,
            )
            feed = self._continue(speak.slot, turn, condition)
            most = MAX_WHOLE_CODES if whole else MAX_GROUP_CODES
            self._make_room(speak.slot, min(len(feed) + most, self.kv.max_len))
            most = min(most, self.kv.max_len - self.kv.lengths[speak.slot] - len(feed))
            rows.append(
                _Row(
                    speak.slot,
                    feed,
                    speak.sampling or TURN_BASED,
                    speak.draws,
                    min_codes=MIN_WHOLE_CODES if whole else 0,
                    max_codes=most,
                    before=list(turn.codes),
                    cut_first=False,
                    end_at=speak.end_at,
                )
            )
            turn.condition = condition
        self._decode(rows, observe, slide=self.decoder.config.attention_type == "sliding_window")
        for speak, row in zip(batch, rows, strict=True):
            turn = self._turns[speak.slot]
            turn.codes += row.codes
            turn.last_codes = row.codes
            turn.first_length = turn.first_length or self.kv.lengths[speak.slot]
            if speak.ends:
                self.reset(speak.slot)
        return [row.codes for row in rows]

    def _continue(self, slot: int, turn: _Turn, condition: Tensor) -> Tensor:
        """Prepare the cache for another group as the attention type wants; return what to feed."""
        kind, length = self.decoder.config.attention_type, self.kv.lengths[slot]
        if turn.condition is None or kind in ("full_attention", "sliding_window"):
            return condition
        if kind == "sliding_recompute":
            self.kv.truncate(slot, 0)
            past = torch.tensor(turn.last_codes, dtype=torch.long, device=self.decoder.device)
            return torch.cat([turn.condition, self.decoder.embed_codes(past), condition])
        last = len(turn.condition) + len(turn.last_codes)
        between = length - turn.first_length - last
        if between > 0:
            self.kv.remove(slot, turn.first_length, between, self.decoder.rope)
        return condition

    def _make_room(self, slot: int, count: int) -> None:
        """Forget the oldest of a turn that outgrows its row (after a minute and a half)."""
        excess = self.kv.lengths[slot] + count - self.kv.max_len
        if excess > 0:
            # Half at once: cutting moves all that stays.
            drop = min(max(excess, self.kv.max_len // 2), self.kv.lengths[slot])
            self.kv.remove(slot, 0, drop, self.decoder.rope)

    def _decode(
        self, rows: list[_Row], observe: Observe | None = None, *, slide: bool = False
    ) -> None:
        """Run rows until each has ended. All codes they keep are in the cache, nothing else."""
        decoder, end = self.decoder, self.decoder.end_code
        alive = list(range(len(rows)))
        while alive:
            active = [rows[i] for i in alive]
            slots, counts = [row.slot for row in active], [len(row.feed) for row in active]
            plan = self.kv.plan(slots, counts)
            hidden = decoder(torch.cat([row.feed for row in active]), self.kv, plan)[plan.last]
            self.kv.advance(slots, counts)
            if slide:
                self._slide(slots)
            full = [len(row.codes) >= row.max_codes for row in active]
            if all(full) and observe is None:
                return
            raw = decoder.logits(hidden)
            forced = raw.clone()
            for place, row in enumerate(active):
                if row.end_at == len(row.codes):
                    forced[place, end] = FORCED_LOGIT
            choices = [row.choice() for row in active]
            z = scores(forced, choices, end)
            if observe is not None:
                observe(alive, hidden, raw, z)
            draws = [
                0.0 if done or row.settings.greedy else row.draws.next()
                for row, done in zip(active, full, strict=True)
            ]
            codes = choose(z, choices, draws)
            embedded = decoder.embed_codes(torch.tensor(codes, device=decoder.device))
            going = []
            for place, (index, code) in enumerate(zip(alive, codes, strict=True)):
                if full[place] or code == end:
                    continue
                rows[index].codes.append(code)
                rows[index].feed = embedded[place : place + 1]
                going.append(index)
            alive = going

    def _slide(self, slots: Sequence[int]) -> None:
        window = self.decoder.config.sliding_window_size
        for slot in slots:
            excess = self.kv.lengths[slot] - window
            if excess > 0:
                # Rotating the keys back equals positions that keep growing.
                self.kv.remove(slot, 0, excess, self.decoder.rope)
