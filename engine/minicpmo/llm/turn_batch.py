"""Half-duplex and chat sessions over one language model: replies advance together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.minicpmo.llm.context_window import Slide
from engine.minicpmo.llm.rows import LONG_ROW, Fed, Feed, LlmRows, Piece, cut
from engine.minicpmo.llm.sampler import BatchSampler, forbidden_mask, sample_turn, turn_tensors
from engine.minicpmo.llm.sampling_ops import MAX_RECENT, choose_turn
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.llm.turn_state import CHUNK_TOKENS, ReplyChunk, ReplySettings, TurnState


@dataclass
class ChosenTurns:
    """What half a step decided."""

    slots: list[int]
    feeding: dict[int, int] = field(default_factory=dict)
    """Ids to feed, by slot."""
    chunks: dict[int, ReplyChunk] = field(default_factory=dict)


class TurnBatch:
    """Drives sessions by slot: `add`, `open_replies`, then `step` until every reply is over.

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
        self.sessions: dict[int, TurnState] = {}
        self._observe = observe
        self.force: Callable[[list[int]], list[int]] | None = None
        self._terminators = tokens.half_duplex_terminators
        self._forbidden = forbidden_mask(
            tokens.half_duplex_forbidden, rows.model.config.vocab_size, rows.model.device
        )
        self._chooser = BatchSampler("choose turn", rows, self._choose)

    def open(self, slot: int, session: TurnState) -> None:
        """Put a session on an empty slot."""
        assert slot not in self.sessions, f"slot {slot} is taken"
        self.sessions[slot] = session
        self.rows.reset(slot)

    def close(self, slot: int) -> None:
        """Forget a session and clear its rows."""
        del self.sessions[slot]
        self.rows.reset(slot)

    def add(self, messages: dict[int, Sequence[Piece]], *, protect: bool = False) -> None:
        """Feed messages in one forward; `protect` marks system messages.

        Raises `ContextFull` of the first slot without room, before anything is fed.
        """
        feeds = [Feed(slot, pieces) for slot, pieces in messages.items()]
        for feed in feeds:
            self._begin_turn(feed)
        self.rows.append(feeds)
        for feed in feeds:
            session = self.sessions[feed.slot]
            closing = len(session.closing_ids) if _closes_reply(session, feed) else 0
            session.add_message(len(feed), closing=closing, protect=protect)
        self._check(messages)

    def add_slowly(
        self, slot: int, pieces: Sequence[Piece], *, protect: bool = False, most: int = LONG_ROW
    ) -> Iterator[None]:
        """Feed a message piece by piece, at most `most` positions for each step.

        Raises `ContextFull` in the first step if there is no room.
        """
        feed, session = Feed(slot, pieces), self.sessions[slot]
        self._begin_turn(feed)
        for part in cut(feed, most):
            self.rows.append([part])
            yield
        closing = len(session.closing_ids) if _closes_reply(session, feed) else 0
        session.add_message(len(feed), closing=closing, protect=protect)
        self._check([slot])

    def _begin_turn(self, feed: Feed) -> None:
        session = self.sessions[feed.slot]
        self._apply(feed.slot, session.forget_aside())
        self._apply(feed.slot, session.begin_turn())
        self._apply(feed.slot, session.make_room(len(feed)))

    def open_replies(self, settings: dict[int, ReplySettings]) -> None:
        """Close the users' messages and open answers, in one forward."""
        for slot, chosen in settings.items():
            # The opening, every chunk, and the next message's closing of the reply.
            longest = 3 * CHUNK_TOKENS + chosen.max_new_tokens
            self._apply(slot, self.sessions[slot].make_room(longest))
        feeds = [Feed(s, [self.sessions[s].open_reply(chosen)]) for s, chosen in settings.items()]
        self.rows.append(feeds, want_logits=True)
        self._check(settings)

    def step(self, slots: Iterable[int] | None = None) -> dict[int, ReplyChunk]:
        """Decide one token for every reply under way (of `slots`) and feed it in one forward.

        Returns the chunks that became complete with this step.
        """
        chosen = self.choose(slots)
        if not chosen.slots:
            return {}
        states = self.rows.step(chosen.feeding)
        return self.fed(chosen, dict(zip(chosen.feeding, states, strict=True)))

    def choose(self, slots: Iterable[int] | None = None) -> ChosenTurns:
        """The first half of a step: decide one token for every reply under way."""
        eligible = self.sessions if slots is None else set(slots)
        chosen = ChosenTurns([s for s in sorted(eligible) if self.sessions[s].is_replying])
        if not chosen.slots:
            return chosen
        for slot, token in zip(chosen.slots, self._decide(chosen.slots), strict=True):
            session = self.sessions[slot]
            chunk = session.decide(token)
            if chunk is not None:
                chosen.chunks[slot] = chunk
            if session.waiting is not None:
                chosen.feeding[slot] = session.waiting
        return chosen

    def fed(self, chosen: ChosenTurns, states: Mapping[int, Tensor]) -> dict[int, ReplyChunk]:
        """The second half: `states` [C] by slot after feeding; the chunks that are complete."""
        chunks = dict(chosen.chunks)
        for slot in chosen.feeding:
            chunk = self.sessions[slot].fed(states[slot])
            if chunk is not None:
                chunks[slot] = chunk
        self._check(chosen.slots)
        return chunks

    def _decide(self, slots: list[int]) -> list[int]:
        rows = [self.sessions[slot].sampling_row(self._forbidden) for slot in slots]
        forced = self.force(slots) if self.force is not None else ()
        if self._observe is None and all(BatchSampler.takes(row.settings) for row in rows):
            vocab = self.rows.model.config.vocab_size
            return self._chooser(slots, turn_tensors(rows, vocab, MAX_RECENT, forced))
        logits = torch.stack([fed.logits for fed in self.rows.newest(slots)])
        if self._observe is not None:
            logits = self._observe(slots, logits)
        return sample_turn(logits, rows, self._terminators, forced)

    def _choose(self, logits: Tensor, numbers: Tensor, recent: Tensor, limit: int) -> Tensor:
        return choose_turn(logits, numbers, recent, self._terminators, self._forbidden, limit)

    def warm_up(self) -> None:
        self._chooser.warm_up()

    def cancel(self, slot: int, keep: int | None = None) -> None:
        """Break a reply off, or shorten one that ended, to the `keep` tokens that were heard."""
        self.rows.truncate(slot, self.sessions[slot].cancel(keep))
        self._check([slot])

    def newest(self, slot: int) -> Fed:
        """State and raw logits at the slot's last position that had any."""
        return self.rows.newest([slot])[0]

    def _apply(self, slot: int, slide: Slide | None) -> None:
        if slide is not None:
            self.rows.apply(slot, slide)

    def _check(self, slots: Iterable[int]) -> None:
        for slot in slots:
            ours, cached = self.sessions[slot].length, self.rows.length(slot)
            assert ours == cached, f"slot {slot}: session counts {ours}, cache holds {cached}"


def _closes_reply(session: TurnState, feed: Feed) -> bool:
    """The message begins with the ids that end the reply before; they belong to that turn."""
    first, closing = feed.pieces[0], session.closing_ids
    return not isinstance(first, Tensor) and tuple(first[: len(closing)]) == closing
