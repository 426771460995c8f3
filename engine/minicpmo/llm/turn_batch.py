"""Half-duplex and chat sessions over one language model: replies advance together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from engine.ipc.protocol import Retention
from engine.minicpmo.llm.batch import Batch, Replay
from engine.minicpmo.llm.context_window import NO_MEDIA, ContextPolicy, Media
from engine.minicpmo.llm.reply import CHUNK_TOKENS, ReplyChunk, ReplySettings
from engine.minicpmo.llm.rows import LONG_ROW, Feed, LlmRows, Piece, cut
from engine.minicpmo.llm.sampler import TurnRow, forbidden_mask, turn_order
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.llm.turn_state import TurnState


class TurnBatch(Batch[TurnState, TurnRow, ReplyChunk]):
    """Drives sessions by slot: `add`, `open_replies`, then `step` until every reply is over."""

    def __init__(self, rows: LlmRows, tokens: OmniTokenizer, replay: Replay | None = None) -> None:
        vocab, device = rows.model.config.vocab_size, rows.model.device
        self._forbidden = forbidden_mask(tokens.half_duplex_forbidden, vocab, device)
        super().__init__(rows, turn_order(tokens.half_duplex_terminators, self._forbidden), replay)

    def set_policy(self, slot: int, policy: ContextPolicy, retention: Retention | None) -> None:
        """Say what happens once the slot's context is full."""
        session = self.sessions[slot]
        session.context.policy, session.window.retention = policy, retention

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
        self,
        slot: int,
        pieces: Sequence[Piece],
        *,
        protect: bool = False,
        most: int = LONG_ROW,
        media: Media = NO_MEDIA,
    ) -> Iterator[None]:
        """Feed a message piece by piece, at most `most` positions for each step.

        `media`: what of it is embeddings. Raises `ContextFull` in the first step if there is no
        room.
        """
        feed, session = Feed(slot, pieces), self.sessions[slot]
        self._begin_turn(feed)
        for part in cut(feed, most):
            self.rows.append([part])
            yield
        closing = len(session.closing_ids) if _closes_reply(session, feed) else 0
        session.add_message(len(feed), closing=closing, protect=protect, media=media)
        self._check([slot])

    def add_reply(self, slot: int, ids: Sequence[int], *, has_called: bool) -> Iterator[None]:
        """Feed a reply that was given earlier behind the message that it answers."""
        for part in cut(Feed(slot, [list(ids)]), LONG_ROW):
            self.rows.append([part])
            yield
        self.sessions[slot].add_reply(ids, has_called=has_called)
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

    def cancel(self, slot: int, keep: int | None = None) -> None:
        """Break a reply off, or shorten one that ended, to the `keep` tokens that were heard."""
        self.rows.truncate(slot, self.sessions[slot].cancel(keep))
        self._check([slot])

    def _row(self, slot: int) -> TurnRow:
        return self.sessions[slot].sampling_row(self._forbidden)


def _closes_reply(session: TurnState, feed: Feed) -> bool:
    """The message begins with the ids that end the reply before; they belong to that turn."""
    first, closing = feed.pieces[0], session.closing_ids
    return not isinstance(first, Tensor) and tuple(first[: len(closing)]) == closing
