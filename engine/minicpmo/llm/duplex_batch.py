"""Full-duplex sessions over one language model: whatever they need next goes in one forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.minicpmo.llm.batch import Batch, Replay
from engine.minicpmo.llm.context_window import Media
from engine.minicpmo.llm.duplex_state import DuplexState
from engine.minicpmo.llm.duplex_unit import UnitPhase, UnitResult
from engine.minicpmo.llm.rows import LONG_ROW, MAX_FORWARD_TOKENS, Feed, LlmRows, Piece, cut
from engine.minicpmo.llm.sampler import DuplexRow, duplex_order, forbidden_mask
from engine.minicpmo.llm.sampling_ops import DuplexIds
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


class DuplexBatch(Batch[DuplexState, DuplexRow, UnitResult]):
    """Drives sessions by slot. A unit: `prefill`, `step` until all are done, `finalize`."""

    def __init__(self, rows: LlmRows, tokens: OmniTokenizer, replay: Replay | None = None) -> None:
        vocab, device = rows.model.config.vocab_size, rows.model.device
        forbidden = forbidden_mask(tokens.duplex_forbidden, vocab, device)
        ids = DuplexIds(tokens.chunk_eos, tokens.turn_eos, tokens.listen, tokens.im_end)
        super().__init__(rows, duplex_order(ids, forbidden), replay)

    # ------------------------------------------------------------------ a session's start

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
        """Start a conversation anew, with a yield between pieces of at most `most` positions."""
        pieces = self.sessions[slot].prepare(prefix, voice, suffix)
        self.rows.reset(slot)
        yield from self._append_slowly(Feed(slot, pieces), most)

    def tell(self, slot: int, suffix: Sequence[int]) -> None:
        """End a session's system message in other words; raises `ContextFull` without room."""
        session = self.sessions[slot]
        lacking = session.lacking_told(suffix)
        if lacking > 0:
            self._make_room(slot, lacking)
        self._apply(slot, session.tell(suffix))
        self._check([slot])

    # ------------------------------------------------------------------ messages

    def make_room_to_read(self, slot: int, positions: int) -> None:
        """Make room for messages between units; raises `ContextFull` where there is none."""
        lacking = self.sessions[slot].lacking_read(positions)
        if lacking > 0:
            self._make_room(slot, lacking)

    def read_slowly(
        self, slot: int, pieces: Sequence[Piece], media: Media, *, most: int = LONG_ROW
    ) -> Iterator[None]:
        """Read messages between units, with a yield between pieces of at most `most` positions.

        There has to be room for them.
        """
        tail = self.sessions[slot].read(sum(map(len, pieces)), media)
        yield from self._append_slowly(Feed(slot, [tail, *pieces]), most)

    def _append_slowly(self, feed: Feed, most: int) -> Iterator[None]:
        for index, piece in enumerate(cut(feed, most)):
            if index:
                yield
            self.rows.append([piece])
        self._check([feed.slot])

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
        """Make room for a unit like the last one before it comes; return whether there was none."""
        lacking = self.sessions[slot].lacking_next()
        if lacking <= 0:
            return False
        self._make_room(slot, lacking)
        return True

    def _make_room(self, slot: int, lacking: int) -> None:
        session = self.sessions[slot]
        if lacking > session.droppable:
            # The newest unit has to go, too, and must be complete for that.
            self.finalize([slot], defer=False)
        self._apply(slot, session.make_room(lacking))
        self._check([slot])

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
            self._apply(slot, slide)
        self._check(closing)

    def _append(self, pieces: dict[int, list[Piece]]) -> None:
        if pieces:
            self.rows.append([Feed(slot, parts) for slot, parts in pieces.items()])

    def _take(self, slots: Iterable[int]) -> dict[int, UnitResult]:
        done = [slot for slot in slots if self.sessions[slot].phase is UnitPhase.DONE]
        return {slot: self.sessions[slot].take_result() for slot in done}

    def _row(self, slot: int) -> DuplexRow:
        return self.sessions[slot].row
