"""One response of the assistant: its items, its words in step with its sound, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from engine.ipc.protocol import (
    OUTPUT_HZ,
    FunctionCallOut,
    Modality,
    ResponseDone,
    call_item,
    response_item,
)
from server.token_shares import shares
from server.worker.items import Items
from signaling.session import events as ev
from signaling.session.core import Asker
from signaling.session.ids import new_id
from signaling.session.items import FunctionCallItem, Item, ItemStatus, MessageItem, ShownPart

Emit = Callable[[ev.SessionEvent], None]
MAX_PENDING_WORDS = 20_000
MAX_CALLS = 64


class Asked(msgspec.Struct, frozen=True):
    """What a client asked an engine for, until the engine says what became of it."""

    by: Asker | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: int | None = None
    is_out_of_band: bool = False
    has_tools: bool = False


class _Output:
    """An item of the response and where it stands."""

    def __init__(self, index: int, item: Item, after: str | None) -> None:
        self.index = index
        self.item = item
        self.after = after
        self.is_ended = False


class ActiveResponse:
    """Owned by the conversation, from `begin` until it is ended and heard."""

    def __init__(
        self, epoch: int, modality: Modality, emit: Emit, items: Items, asked: Asked
    ) -> None:
        self.epoch = epoch
        self.id = new_id("resp")
        self.is_audible = False
        """Whether its first sample is on its way."""
        self.is_ended = False
        """Whether its end was told; what was sent ahead may still be heard."""
        self.reported_samples = 0
        """What the engine was last told to have been heard."""
        self.outcome: ResponseDone | None = None
        self.is_out_of_band = asked.is_out_of_band
        self._modality = modality
        self._emit = emit
        self._items = items
        self._asked = asked
        self._outputs: list[_Output] = []
        self._message: _Output | None = None
        self._calls: dict[str, _Output] = {}
        self._heard_samples = 0
        self._sent_samples = 0
        self._sound_samples = 0
        self._pending: deque[tuple[int, str]] = deque(maxlen=MAX_PENDING_WORDS)
        self._said: list[tuple[int, str]] = []

    @property
    def item_id(self) -> str | None:
        """Of its message, once that has begun."""
        return None if self._message is None else self._message.item.id

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    @property
    def text(self) -> str:
        """What has been heard (or, without sound, shown) so far."""
        return "".join(text for _, text in self._said)

    @property
    def heard_ms(self) -> int | None:
        """What of its sound was heard when it was over; None if it had none."""
        if self._modality == "text":
            return None
        return self._heard_samples * 1000 // OUTPUT_HZ

    # ------------------------------------------------------------------ while it is made

    def begin(self) -> None:
        self._emit(ev.ResponseBegan(response=self._info("in_progress")))
        if not self._asked.has_tools:
            # With tools it may come to nothing but calls.
            self._begin_message()

    def add_text(self, pts: int, text: str) -> None:
        """Words to show when the sound reaches `pts`; at once in a response without sound."""
        if text:
            self._begin_message()
            self._pending.append((pts, text))
        if self._modality == "text":
            self.release(pts)

    def add_sound(self, pts: int, samples: int) -> None:
        self._begin_message()
        self._sound_samples = max(self._sound_samples, pts + samples)

    def add_call(self, part: FunctionCallOut) -> None:
        """A function is called, or its arguments go on."""
        output = self._calls.get(part.call_id)
        if output is None:
            if len(self._calls) >= MAX_CALLS:
                return
            item_id = new_id("item")
            item = FunctionCallItem(
                id=item_id, call_id=part.call_id, name=part.name, status="in_progress"
            )
            output = self._calls[part.call_id] = self._start(item)
        if output.is_ended:
            return
        assert isinstance(output.item, FunctionCallItem)
        if part.arguments:
            whole = output.item.arguments + part.arguments
            output.item = msgspec.structs.replace(output.item, arguments=whole)
            self._emit(
                ev.ArgumentsGrew(
                    response_id=self.id,
                    item_id=output.item.id,
                    index=output.index,
                    call_id=part.call_id,
                    text=part.arguments,
                )
            )
        if part.last:
            self._end_output(output, "completed")

    def release(self, samples: int | None = None) -> None:
        """Show the words due after `samples` of sound; None: all."""
        while self._pending and (samples is None or self._pending[0][0] <= samples):
            at, text = self._pending.popleft()
            self._said.append((at, text))
            end = self._pending[0][0] if self._pending else self._sound_samples
            assert self._message is not None
            self._emit(
                ev.WordsReleased(
                    response_id=self.id,
                    item_id=self._message.item.id,
                    index=self._message.index,
                    modality=self._modality,
                    text=text,
                    start=at,
                    end=max(at, end),
                )
            )

    def send(self, start: int, pcm: bytes) -> None:
        """Its sound goes out, ahead of its time."""
        self._begin_message()
        self._sent_samples = start + len(pcm) // 2
        assert self._message is not None
        self._emit(
            ev.SpeechReleased(
                response_id=self.id,
                item_id=self._message.item.id,
                index=self._message.index,
                start=start,
                pcm=pcm,
            )
        )

    def audible(self) -> None:
        """The first sample is on its way, once more where it was not heard."""
        if not self.is_audible:
            self.is_audible = True
            self._emit(ev.ResponseAudible(response_id=self.id))

    def retell(self, tell: Emit) -> None:
        """Tell how it stands to who comes in the middle of it."""
        tell(ev.ResponseBegan(response=self._info("in_progress")))
        if self._message is not None and not self._message.is_ended:
            item = self._spoken("in_progress")
            begun = ev.OutputStarted(
                response=self._info("in_progress"),
                index=self._message.index,
                item=item,
                after=self._message.after,
            )
            tell(begun)
        if self.is_audible:
            tell(ev.ResponseAudible(response_id=self.id))

    @property
    def spoken_item(self) -> MessageItem | None:
        """Its message with the words that were heard so far; None before it has one."""
        return None if self._message is None else self._spoken("in_progress")

    # ------------------------------------------------------------------ its end

    def end(self) -> None:
        """Tell the end that the engine's outcome says."""
        assert self.outcome is not None, "end needs the engine's outcome"
        self.is_ended = True
        self.release()
        status = self.outcome.status
        self._end_outputs("completed" if status == "completed" else "incomplete")
        reason = {
            "failed": self.outcome.reason,
            "incomplete": "max_output_tokens",
            "cancelled": "client_cancelled",
        }.get(status)
        self._emit(ev.ResponseEnded(response=self._info(status, reason)))

    def played(self, heard_samples: int) -> None:
        """Its sound was played to the end."""
        self._heard_samples = heard_samples
        if self.is_audible:
            self._emit(ev.PlayoutEnded(response_id=self.id, is_cut=False))

    def cut(self, heard_samples: int, reason: ev.CancelReason, *, is_known: bool = True) -> None:
        """Ended early; what was not heard by then never happened.

        `is_known`: what was heard is more than a guess, so that it is told.
        """
        # Who is sent sound ahead will say what was heard of it.
        self._heard_samples = heard_samples if is_known else self._sent_samples
        if self.is_audible:
            self._emit(ev.PlayoutEnded(response_id=self.id, is_cut=True))
        if self.is_ended:
            return
        self.is_ended = True
        if heard_samples and is_known:
            # Not even the first word, due at sample 0, without a sample.
            self.release(heard_samples)
        if self._modality == "audio" and is_known:
            self._tell_cut()
        self._end_outputs("incomplete")
        self._emit(ev.ResponseEnded(response=self._info("cancelled", reason)))

    def forget(self, samples: int) -> int:
        """Over, yet what came after `samples` is to be as if it was not heard; what remains."""
        if samples < self._heard_samples:
            self._said = [(at, text) for at, text in self._said if samples and at <= samples]
        self._heard_samples = min(samples, self._heard_samples)
        if self._message is not None:
            self._message.item = self._spoken("incomplete")
            self._keep(self._message)
        self._tell_cut()
        return self._heard_samples

    def _tell_cut(self) -> None:
        if self._message is not None:
            self._emit(ev.ItemCut(item_id=self._message.item.id, end_ms=self.heard_ms or 0))

    def _begin_message(self) -> None:
        if self._message is None and not self.is_ended:
            item = MessageItem(id=new_id("item"), role="assistant", status="in_progress")
            self._message = self._start(item)

    def _start(self, item: Item) -> _Output:
        after = None if self.is_out_of_band else self._items.last_id
        output = _Output(len(self._outputs), item, after)
        self._outputs.append(output)
        if not self.is_out_of_band:
            name = response_item(self.epoch)
            if isinstance(item, FunctionCallItem):
                name = call_item(item.call_id)
            self._items.put(item, name=name)
        info = self._info("in_progress")
        self._emit(ev.OutputStarted(response=info, index=output.index, item=item, after=after))
        return output

    def _end_outputs(self, status: ItemStatus) -> None:
        for output in self._outputs:
            if not output.is_ended:
                # A call that broke off must not be taken for a whole one.
                is_call = isinstance(output.item, FunctionCallItem)
                self._end_output(output, "incomplete" if is_call else status)

    def _end_output(self, output: _Output, status: ItemStatus) -> None:
        output.is_ended = True
        if output is self._message:
            output.item = self._spoken(status)
        else:
            output.item = msgspec.structs.replace(output.item, status=status)
        self._keep(output)
        self._emit(
            ev.OutputEnded(
                response=self._info("in_progress"),
                index=output.index,
                item=output.item,
                after=output.after,
            )
        )

    def _keep(self, output: _Output) -> None:
        if output.item.id in self._items:
            self._items.put(output.item)

    def _spoken(self, status: ItemStatus) -> MessageItem:
        assert self._message is not None
        part = ShownPart("audio" if self._modality == "audio" else "text", self.text)
        return MessageItem(id=self._message.item.id, role="assistant", status=status, parts=(part,))

    def _info(self, status: ev.ResponseStatus, reason: str | None = None) -> ev.ResponseInfo:
        is_over = status != "in_progress"
        return ev.ResponseInfo(
            id=self.id,
            modality=self._modality,
            status=status,
            output=tuple(output.item for output in self._outputs) if is_over else (),
            reason=reason,
            usage=_usage(self.outcome) if is_over and self.outcome is not None else None,
            metadata=self._asked.metadata,
            max_output_tokens=self._asked.max_output_tokens,
            is_out_of_band=self.is_out_of_band,
        )


def _usage(done: ResponseDone) -> ev.Usage | None:
    """What an engine counted, if it did."""
    if not done.input_tokens and not done.output_tokens:
        return None
    return ev.Usage(
        input_tokens=done.input_tokens,
        output_tokens=done.output_tokens,
        input_shares=shares(done.input_split),
        output_shares=shares(done.output_split),
    )
