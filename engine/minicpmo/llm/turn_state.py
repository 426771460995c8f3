"""Half duplex and chat: messages go in whole, replies come out in chunks.

`TurnState` is one conversation's state without tensors, `TurnBatch` drives many through one model.
Source: MiniCPM-o 4.5 inference code (chunk prefill, chunk generate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from engine.ipc.protocol import Retention, TokenSplit
from engine.minicpmo.llm.context_window import (
    NO_MEDIA,
    ContextLimit,
    ContextPolicy,
    Cut,
    Entry,
    Media,
    Slide,
    TurnWindow,
    split,
)
from engine.minicpmo.llm.reply import ReplyChunk, ReplySettings, ReplyState
from engine.minicpmo.llm.sampler import Draws, TurnRow
from engine.minicpmo.llm.tokenizer import OmniTokenizer, TextStream


class TurnState:
    """State of one conversation: message rows, then `open_reply`, then tokens until it is over."""

    def __init__(
        self,
        tokens: OmniTokenizer,
        seed: int,
        max_context: int,
        *,
        window: TurnWindow | None = None,
        context_policy: ContextPolicy = "slide",
        retention: Retention | None = None,
    ) -> None:
        """`max_context`: positions the session's cache may hold."""
        self._tokens = tokens
        self.draws = Draws(seed)
        self.context = ContextLimit(max_context, context_policy)
        self.window = replace(
            window or TurnWindow(), entries=[], retention=retention, room=max_context
        )
        self.length = 0
        self.turn_open = False
        """Rows of the newest turn are in the cache and not yet among the window's entries."""
        self.has_replied = False
        """There was a reply: the next user message must begin with `closing_ids`."""
        self._closing = {
            False: (tokens.tts_eos, tokens.im_end, *tokens.encode("\n")),
            True: (tokens.im_end, *tokens.encode("\n")),
        }
        self.has_called = False
        """The newest reply has called functions."""
        self._turn_start = 0
        self._turn_media = Media()
        """Embeddings of the newest turn."""
        self._turn_replied = False
        self._reply: ReplyState | None = None

    @property
    def closing_ids(self) -> tuple[int, ...]:
        return self._closing[self.has_called]

    @property
    def needs_decision(self) -> bool:
        return self._reply is not None and not self._reply.over

    @property
    def has_reply(self) -> bool:
        """The newest turn is a reply, under way or over, which `cancel` may shorten."""
        return self._reply is not None

    # ------------------------------------------------------------------ messages

    @property
    def reply_ids(self) -> tuple[int, ...]:
        """What of the newest reply stands in the cache; its opening included."""
        return () if self._reply is None else tuple(self._reply.ids)

    def input_split(self, cached: int) -> TokenSplit:
        """Of which kinds the positions are; `cached`: how many of them were not read anew."""
        return split(self.length, self.window.media + self._turn_media, cached)

    def add_message(
        self, count: int, *, closing: int = 0, protect: bool = False, media: Media = NO_MEDIA
    ) -> None:
        """Rows of a message were fed, the first `closing` of which end the reply before.

        `protect`: a system message, which no window drops. `media`: what of it is embeddings.
        """
        assert not self.needs_decision, "a message during a reply"
        if protect:
            assert not self.window.entries and not self.turn_open, "a system message comes first"
            self.window.protected += count
            self.window.protected_media += media
            self._turn_start = self.length + count
        elif not self.turn_open:
            if closing and self.window.entries:
                before = self.window.entries[-1]
                self.window.entries[-1] = replace(before, length=before.length + closing)
            else:
                # The reply that these end was dropped to make room.
                closing = 0
            self._turn_start, self.turn_open = self.length + closing, True
        if not protect:
            self._turn_media += media
        self.length += count

    def add_reply(self, ids: Sequence[int], *, has_called: bool) -> None:
        """Rows of a reply that was given earlier were fed; nothing can shorten it any more."""
        assert self.turn_open, "a reply to nothing"
        self.has_replied = self._turn_replied = True
        self.has_called = has_called
        self.length += len(ids)

    def forget_aside(self) -> Slide | None:
        """Return the cut of what held for the reply before only; call it ahead of a message."""
        assert not self.needs_decision, "the reply still needs it"
        reply = self._reply
        if reply is None or not reply.aside:
            return None
        count, reply.aside = reply.aside, 0
        reply.start -= count
        self.length -= count
        self.context.check(self.length)
        return Cut(reply.start, count)

    def begin_turn(self) -> Slide | None:
        """Close the turn before, if a reply ended it; what the window then does to the cache."""
        if not self._turn_replied:
            return None
        length = self.length - self._turn_start
        self.window.entries.append(Entry(length, media=self._turn_media))
        self._turn_media = Media()
        self.turn_open = self._turn_replied = False
        self._reply = None
        return self._slid(self.window.slide())

    def make_room(self, coming: int) -> Slide | None:
        """What to drop so that `coming` rows fit; raises `ContextFull` where nothing may go.

        Every turn but the open one may go: the user has asked something new.
        """
        lacking = self.context.lacking(self.length, coming)
        return self._slid(self.window.make_room(lacking, keep_last=0)) if lacking else None

    def _slid(self, slide: Slide | None) -> Slide | None:
        if slide is not None:
            kept = sum(entry.length for entry in self.window.entries)
            open_rows = self.length - self._turn_start if self.turn_open else 0
            self.length = self.window.protected + kept + open_rows
            self._turn_start = self.length - open_rows
            self.context.check(self.length)
        return slide

    # ------------------------------------------------------------------ replies

    def open_reply(self, settings: ReplySettings) -> list[int]:
        """Return the ids that close the user's message and open the answer."""
        assert not self.needs_decision, "a reply during a reply"
        tokens = self._tokens
        ids = [tokens.im_end, *tokens.encode("\n<|im_start|>assistant\n")]
        if not settings.thinking:
            ids += tokens.encode("<think>\n\n</think>\n\n")
        if (settings.tts_template or settings.speech) and not settings.call_opening:
            ids.append(tokens.tts_bos)
        opened = self.length + len(ids)
        ids += settings.call_opening
        stream = TextStream(tokens, skip_special=settings.skip_special)
        assert settings.aside <= self.length - self._turn_start, f"{settings.aside} positions aside"
        reply = ReplyState(settings, stream, self.length, len(ids), [*ids], aside=settings.aside)
        if settings.call_opening:
            reply.call, reply.call_start = [*settings.call_opening[1:]], opened
        self._reply, self.has_called = reply, False
        if not self.turn_open:
            self._turn_start, self.turn_open = self.length, True
        self.has_replied = self._turn_replied = True
        self.length += len(ids)
        return ids

    def sampling_row(self, forbidden: Tensor) -> TurnRow:
        """What `sample_turn` needs; `forbidden` [V] counts only for spoken replies."""
        reply = self._running()
        settings = reply.settings
        recent = reply.earlier[-settings.sampling.repetition_window :]
        return TurnRow(
            settings.sampling,
            self.draws,
            [*recent, *reply.chunk],
            forbidden if settings.speech and reply.call is None else None,
        )

    @property
    def given(self) -> int:
        """The id that has to be chosen next; -1: any."""
        reply = self._running()
        says, said = reply.settings.says, len(reply.earlier) + len(reply.chunk)
        if not says:
            return -1
        return says[said] if said < len(says) else self._tokens.half_duplex_terminators[0]

    def decide(self, token: int) -> ReplyChunk | None:
        """Take a sampled id: it waits to be fed, or ends the reply; a full chunk is returned."""
        reply = self._running()
        assert reply.waiting is None, "the last id was not fed"
        if reply.call is not None:
            return self._write_call(reply, token)
        if token in self._tokens.half_duplex_terminators:
            return self._finish(reply, by_limit=False)
        if token == self._tokens.tool_call or reply.has_called:
            return self._begin_call(reply, token)
        reply.chunk.append(token)
        reply.waiting = token
        if not reply.is_chunk_full:
            return None
        if reply.chunks + 1 == reply.max_chunks:
            if reply.settings.finish_at_limit:
                return None
            reply.waiting = None
            return self._finish(reply, by_limit=True)
        return self._hand_out(reply)

    @property
    def waiting(self) -> int | None:
        """The id to feed next."""
        return None if self._reply is None else self._reply.waiting

    def fed(self, hidden: Tensor) -> ReplyChunk | None:
        """The waiting id is in the cache; returns the last chunk if the limit was reached."""
        reply = self._running()
        assert reply.waiting is not None, "nothing was to be fed"
        waiting, reply.waiting = reply.waiting, None
        self.length += 1
        reply.ids.append(waiting)
        if reply.is_unsaid:
            reply.is_unsaid = False
            return None
        reply.fed.append((waiting, hidden))
        if reply.chunks + 1 == reply.max_chunks and reply.is_chunk_full:
            return self._finish(reply, by_limit=True)
        return None

    def cancel(self, keep: int | None = None) -> int:
        """Break the reply off, or shorten one that ended; returns the length to truncate to.

        `keep`: tokens of the reply that the user got to hear; None keeps all that were fed. Calls
        stay, and what was to be said before them: what they give back will refer to them.
        """
        assert self._reply is not None, "there is no reply"
        reply = self._reply
        reply.over, reply.waiting = True, None
        if reply.call is not None:
            # Half a call was never reported.
            self.length, reply.call = min(self.length, reply.call_start), None
        if keep is not None and not reply.has_called:
            assert keep >= 0, f"{keep} tokens"
            self.length = min(self.length, reply.start + reply.opening + keep)
        del reply.ids[self.length - reply.start :]
        return self.length

    def _begin_call(self, reply: ReplyState, token: int) -> ReplyChunk | None:
        """Take an id that begins a call, or stands between two."""
        is_blank = reply.has_called and not self._tokens.decode([token]).strip()
        if token != self._tokens.tool_call and not is_blank:
            # After its calls the model waits for their results.
            return self._finish(reply, by_limit=False)
        if not reply.settings.may_call:
            return self._finish(reply, by_limit=False)
        if self._is_too_long(reply):
            return self._finish(reply, by_limit=True)
        self._leave_unsaid(reply, token)
        if is_blank:
            return None
        reply.call, reply.call_start = [], self.length
        has_spoken = not reply.has_called and (reply.chunks or reply.fed)
        return replace(self._hand_out(reply), ends_speech=True) if has_spoken else None

    def _write_call(self, reply: ReplyState, token: int) -> ReplyChunk | None:
        """Take the next id of a call; returns the call once it is whole."""
        assert reply.call is not None
        is_end = token in self._tokens.half_duplex_terminators
        if is_end or self._is_too_long(reply):
            text = self._end_call(reply)
            return replace(self._finish(reply, by_limit=not is_end), call=text)
        self._leave_unsaid(reply, token)
        if token != self._tokens.tool_call_end:
            reply.call.append(token)
            return None
        text = self._end_call(reply)
        warning = self.context.check(self.length)
        return ReplyChunk((), (), "", (), False, warning=warning, call=text)

    def _end_call(self, reply: ReplyState) -> str:
        text = self._tokens.decode(reply.call or ()).strip()
        reply.call = None
        reply.has_called = self.has_called = True
        return text or "{}"

    def _leave_unsaid(self, reply: ReplyState, token: int) -> None:
        reply.waiting, reply.is_unsaid = token, True
        reply.num_unsaid += 1

    def _is_too_long(self, reply: ReplyState) -> bool:
        said = len(reply.earlier) + len(reply.chunk)
        return said + reply.num_unsaid >= reply.settings.max_new_tokens

    def _hand_out(
        self, reply: ReplyState, last: bool = False, by_limit: bool = False
    ) -> ReplyChunk:
        ids = tuple(token for token, _ in reply.fed)
        text = reply.stream.push(ids) + (reply.stream.finish() if last and not by_limit else "")
        if by_limit and reply.settings.finish_at_limit:
            text += reply.stream.finish()
        chunk = ReplyChunk(
            ids,
            tuple(hidden for _, hidden in reply.fed),
            text,
            tuple(reply.chunk),
            last,
            by_limit,
            self.context.check(self.length),
        )
        reply.earlier += reply.chunk
        reply.chunk, reply.fed = [], []
        reply.chunks += 1
        return chunk

    def _finish(self, reply: ReplyState, *, by_limit: bool) -> ReplyChunk:
        reply.over = True
        return self._hand_out(reply, last=True, by_limit=by_limit)

    def _running(self) -> ReplyState:
        assert self._reply is not None and not self._reply.over, "no reply is under way"
        return self._reply
