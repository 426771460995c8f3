"""Full-duplex sessions over one language model: whatever they need next goes in one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.minicpmo.llm.duplex_state import DuplexState, UnitPhase, UnitResult
from engine.minicpmo.llm.rows import (
    LONG_ROW,
    MAX_FORWARD_TOKENS,
    Fed,
    Feed,
    LlmRows,
    Piece,
    cut,
)
from engine.minicpmo.llm.sampler import (
    BatchSampler,
    duplex_tensors,
    forbidden_mask,
    record,
    sample_duplex,
)
from engine.minicpmo.llm.sampling_ops import MAX_RECENT, DuplexIds, choose_duplex
from engine.minicpmo.llm.tokenizer import OmniTokenizer


@dataclass(frozen=True)
class UnitInput:
    """What one slot's unit brings."""

    slot: int
    audio: Tensor | None
    """[T, C], None in a unit of pictures only."""
    pictures: Sequence[Sequence[Tensor]] = ()
    """Per picture its embeddings [T, C]: the whole one, then its slices."""
    force_listen: bool = False


class DuplexBatch:
    """Drives sessions by slot. A unit: `prefill`, `step` until all are done, `finalize`.

    `observe` sees the slots and raw logits [B, V] of every sampling step and may replace them;
    `force` gives the ids to choose by slot, -1 for a free choice. They are for replays and
    benchmarks.
    """

    def __init__(
        self,
        rows: LlmRows,
        tokens: OmniTokenizer,
        observe: Callable[[list[int], Tensor], Tensor] | None = None,
    ) -> None:
        self.rows = rows
        self.sessions: dict[int, DuplexState] = {}
        self.observe = observe
        self.force: Callable[[list[int]], list[int]] | None = None
        self._ids = DuplexIds(tokens.chunk_eos, tokens.turn_eos, tokens.listen, tokens.im_end)
        self._forbidden = forbidden_mask(
            tokens.duplex_forbidden, rows.model.config.vocab_size, rows.model.device
        )
        self._chooser = BatchSampler("choose duplex", rows, self._choose)

    # ------------------------------------------------------------------ sessions

    def open(self, slot: int, session: DuplexState) -> None:
        """Put a session on an empty slot."""
        assert slot not in self.sessions, f"slot {slot} is taken"
        self.sessions[slot] = session
        self.rows.reset(slot)

    def close(self, slot: int) -> None:
        """Forget a session and clear its rows."""
        del self.sessions[slot]
        self.rows.reset(slot)

    def prepare(
        self, messages: dict[int, tuple[Sequence[int], Tensor | None, Sequence[int]]]
    ) -> None:
        """Start conversations anew: by slot the ids before the voice, its embeddings, the rest."""
        for slot, message in messages.items():
            for _ in self.prepare_slowly(slot, *message, most=MAX_FORWARD_TOKENS):
                pass

    def prepare_slowly(
        self,
        slot: int,
        prefix: Sequence[int],
        voice: Tensor | None,
        suffix: Sequence[int],
        *,
        most: int = LONG_ROW,
    ) -> Iterator[None]:
        """Start a conversation anew, piece by piece: at most `most` positions for each step."""
        pieces = self.sessions[slot].prepare(prefix, voice, suffix)
        self.rows.reset(slot)
        for feed in cut(Feed(slot, pieces), most):
            self.rows.append([feed])
            yield
        self._check([slot])

    # ------------------------------------------------------------------ units

    def prefill(self, inputs: Sequence[UnitInput]) -> dict[int, UnitResult]:
        """Feed units in one forward; returns the results of those that were told to listen.

        Raises `ContextFull` of the first slot without room, before anything is fed; ask `room`.
        """
        for unit in inputs:
            self.room(unit)
        feeds = []
        for unit in inputs:
            session = self.sessions[unit.slot]
            pieces = session.begin(unit.pictures, unit.audio, force_listen=unit.force_listen)
            feeds.append(Feed(unit.slot, pieces))
        forced = [f for f in feeds if self.sessions[f.slot].phase is UnitPhase.DONE]
        if len(forced) == len(feeds):
            self.rows.append(feeds)
        else:
            self.rows.append(feeds, want_logits=True)
        self._check(feed.slot for feed in feeds)
        return self._take([feed.slot for feed in forced])

    def room(self, unit: UnitInput) -> None:
        """Make room for a unit; raises `ContextFull` where there is none or policy forbids it."""
        lacking = self.sessions[unit.slot].lacking(unit.pictures, unit.audio)
        if lacking > 0:
            self._make_room(unit.slot, lacking)

    def room_ahead(self, slot: int) -> bool:
        """Make room for a unit like the last one before it comes; whether there was none."""
        lacking = self.sessions[slot].lacking_next()
        if lacking <= 0:
            return False
        self._make_room(slot, lacking)
        return True

    def _make_room(self, slot: int, lacking: int) -> None:
        session = self.sessions[slot]
        if lacking > session.droppable:
            # The newest unit has to go, too, and must be whole for it.
            self.finalize([slot], defer=False)
        cut = session.make_room(lacking)
        if cut is not None:
            self.rows.apply(slot, cut)
        self._check([slot])

    def step(self, slots: Iterable[int] | None = None) -> dict[int, UnitResult]:
        """Decide one token for every session under way (of `slots`) and feed it in one forward.

        Returns the units that are over with this step.
        """
        deciding, feeding = self.choose(slots)
        if not deciding:
            return {}
        return self.fed(deciding, dict(zip(feeding, self.rows.step(feeding), strict=True)))

    def choose(self, slots: Iterable[int] | None = None) -> tuple[list[int], dict[int, int]]:
        """The first half of a step: the slots that decided, and the ids to feed by slot."""
        eligible = self.sessions if slots is None else set(slots)
        deciding = [s for s in sorted(eligible) if self.sessions[s].needs_decision]
        feeding: dict[int, int] = {}
        if not deciding:
            return deciding, feeding
        for slot, token in zip(deciding, self._decide(deciding), strict=True):
            to_feed = self.sessions[slot].decide(token)
            if to_feed is not None:
                feeding[slot] = to_feed
        return deciding, feeding

    def fed(self, deciding: Sequence[int], states: Mapping[int, Tensor]) -> dict[int, UnitResult]:
        """The second half: `states` [C] by slot after feeding; the units that are over."""
        for slot in deciding:
            if slot in states:
                self.sessions[slot].fed(states[slot])
        self._check(deciding)
        return self._take(deciding)

    def _decide(self, slots: list[int]) -> list[int]:
        rows = [self.sessions[slot].row for slot in slots]
        forced = self.force(slots) if self.force is not None else ()
        if self.observe is None and all(BatchSampler.takes(row.settings) for row in rows):
            vocab = self.rows.model.config.vocab_size
            chosen = self._chooser(slots, duplex_tensors(rows, vocab, MAX_RECENT, forced))
            record(rows, chosen, self._ids)
            return chosen
        logits = torch.stack([fed.logits for fed in self.rows.newest(slots)])
        if self.observe is not None:
            logits = self.observe(slots, logits)
        return sample_duplex(logits, rows, self._ids, self._forbidden, forced)

    def _choose(self, logits: Tensor, numbers: Tensor, recent: Tensor, limit: int) -> Tensor:
        return choose_duplex(logits, numbers, recent, self._ids, self._forbidden, limit)

    def warm_up(self) -> None:
        self._chooser.warm_up()

    def is_deciding(self, slot: int) -> bool:
        return self.sessions[slot].needs_decision

    def interrupt(self, slots: Iterable[int]) -> dict[int, UnitResult]:
        """Barge-in: the units under way become listens, with their turns closed in the cache."""
        ended = [slot for slot in slots if self.sessions[slot].needs_decision]
        closing = {slot: self.sessions[slot].interrupt() for slot in ended}
        self._append({slot: [ids] for slot, ids in closing.items() if ids})
        self._check(ended)
        return self._take(ended)

    def finalize(self, slots: Iterable[int], *, defer: bool = True) -> None:
        """Close finished units and move their windows.

        With `defer` the two closing rows wait for the next unit's prefill wherever no window is
        about to move.
        """
        closing = [s for s in slots if not defer or self.sessions[s].must_close]
        ends = {slot: self.sessions[slot].close_unit() for slot in closing}
        self._append({slot: [tail] for slot, (tail, _) in ends.items() if tail})
        for slot, (_, slide) in ends.items():
            if slide is not None:
                self.rows.apply(slot, slide)
        self._check(closing)

    def newest(self, slot: int) -> Fed:
        """State and raw logits at the slot's last position that had any."""
        return self.rows.newest([slot])[0]

    # ------------------------------------------------------------------

    def _append(self, pieces: dict[int, list[Piece]]) -> None:
        if pieces:
            self.rows.append([Feed(slot, parts) for slot, parts in pieces.items()])

    def _take(self, slots: Iterable[int]) -> dict[int, UnitResult]:
        done = [slot for slot in slots if self.sessions[slot].phase is UnitPhase.DONE]
        return {slot: self.sessions[slot].take_result() for slot in done}

    def _check(self, slots: Iterable[int]) -> None:
        for slot in slots:
            ours, cached = self.sessions[slot].length, self.rows.length(slot)
            assert ours == cached, f"slot {slot}: session counts {ours}, cache holds {cached}"
