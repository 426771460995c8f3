"""One response of the assistant: its item, its words in step with playout, its events in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from engine.ipc.protocol import OUTPUT_HZ, Modality, ResponseDone
from signaling import server_events as ev

Emit = Callable[[Any], None]
"""Sends one of the structs of `signaling.server_events`."""
CancelReason = Literal["turn_detected", "client_cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

MAX_PENDING_WORDS = 20_000


class ActiveResponse:
    """Owned by the conversation, from `begin` until `finish` or `cut`."""

    def __init__(
        self,
        epoch: int,
        modality: Modality,
        emit: Emit,
        *,
        previous_item_id: str | None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.epoch = epoch
        self.id = ev.new_id("resp")
        self.item_id = ev.new_id("item")
        self.is_audible = False
        """Whether its first sample is on the wire."""
        self.reported_samples = 0
        """What the engine was last told to have been heard."""
        self.outcome: ResponseDone | None = None
        self._modality = modality
        self._emit = emit
        self._previous_item_id = previous_item_id
        self._metadata = metadata
        self._heard_samples = 0
        self._pending: deque[tuple[int, str]] = deque(maxlen=MAX_PENDING_WORDS)
        self._said: list[tuple[int, str]] = []

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

    def item(self, status: ItemStatus) -> ev.MessageItem:
        """The assistant's item as it stands."""
        content: tuple[ev.Part, ...] = ()
        if status != "in_progress":
            content = (
                ev.Part(type="output_audio", transcript=self.text)
                if self._modality == "audio"
                else ev.Part(type="output_text", text=self.text),
            )
        return ev.MessageItem(id=self.item_id, role="assistant", status=status, content=content)

    def begin(self) -> None:
        self._emit(ev.ResponseCreated(response=self._response("in_progress")))
        item = self.item("in_progress")
        self._emit(ev.OutputItemAdded(response_id=self.id, item=item))
        self._emit(ev.ItemAddedEvent(item=item, previous_item_id=self._previous_item_id))
        self._emit(
            ev.ContentPartAdded(response_id=self.id, item_id=self.item_id, part=self._part())
        )

    def add_text(self, pts: int, text: str) -> None:
        """Words to show when playout reaches `pts`; at once in a response without sound."""
        if text:
            self._pending.append((pts, text))
        if self._modality == "text":
            self.release(pts)

    def release(self, samples: int | None = None) -> None:
        """Show the words due after `samples` of playout; None: all."""
        while self._pending and (samples is None or self._pending[0][0] <= samples):
            at, text = self._pending.popleft()
            self._said.append((at, text))
            delta = ev.AudioTranscriptDelta if self._modality == "audio" else ev.OutputTextDelta
            self._emit(delta(response_id=self.id, item_id=self.item_id, delta=text))

    def audible(self) -> None:
        """The first sample is on the wire."""
        self.is_audible = True
        self._emit(ev.OutputBufferStarted(response_id=self.id))

    def finish(self, heard_samples: int) -> None:
        """Generated and played to the end, as the outcome says."""
        assert self.outcome is not None, "finish needs the engine's outcome"
        self._heard_samples = heard_samples
        self.release()
        status = self.outcome.status
        self._close("completed" if status == "completed" else "incomplete")
        details: dict[str, Any] | None = None
        if status == "failed":
            error = {"type": "server_error", "code": "engine", "message": self.outcome.reason}
            details = {"type": "failed", "error": error}
        elif status == "incomplete":
            details = {"type": "incomplete", "reason": "max_output_tokens"}
        elif status == "cancelled":
            details = {"type": "cancelled", "reason": "client_cancelled"}
        self._emit(ev.ResponseDoneEvent(response=self._response(status, details)))
        if self.is_audible:
            self._emit(ev.OutputBufferStopped(response_id=self.id))

    def cut(self, heard_samples: int, reason: CancelReason) -> None:
        """Ended early; what was not heard by then never happened."""
        self._heard_samples = heard_samples
        if heard_samples:
            # Not even the first word, due at sample 0, without a sample.
            self.release(heard_samples)
        if self.is_audible:
            self._emit(ev.OutputBufferCleared(response_id=self.id))
        if self._modality == "audio":
            self._tell_truncated()
        self._close("incomplete")
        details = {"type": "cancelled", "reason": reason}
        self._emit(ev.ResponseDoneEvent(response=self._response("cancelled", details)))

    def forget(self, samples: int) -> int:
        """Over, yet what came after `samples` is to be as if it was not heard; what remains."""
        if samples < self._heard_samples:
            self._heard_samples = samples
            self._said = [(at, text) for at, text in self._said if samples and at <= samples]
        self._tell_truncated()
        return self._heard_samples

    def _tell_truncated(self) -> None:
        self._emit(ev.ItemTruncated(item_id=self.item_id, audio_end_ms=self.heard_ms or 0))

    def _close(self, status: ItemStatus) -> None:
        where: dict[str, Any] = {"response_id": self.id, "item_id": self.item_id}
        if self._modality == "audio":
            self._emit(ev.OutputAudioDone(**where))
            self._emit(ev.AudioTranscriptDone(**where, transcript=self.text))
        else:
            self._emit(ev.OutputTextDone(**where, text=self.text))
        self._emit(ev.ContentPartDone(**where, part=self._part()))
        item = self.item(status)
        self._emit(ev.OutputItemDone(response_id=self.id, item=item))
        self._emit(ev.ItemDone(item=item, previous_item_id=self._previous_item_id))

    def _part(self) -> ev.Part:
        if self._modality == "audio":
            return ev.Part(type="audio", transcript=self.text)
        return ev.Part(type="text", text=self.text)

    def _response(
        self,
        status: Literal["in_progress", "completed", "cancelled", "incomplete", "failed"],
        details: dict[str, Any] | None = None,
    ) -> ev.Response:
        usage: dict[str, Any] | None = None
        output: tuple[ev.Item, ...] = ()
        if status != "in_progress":
            output = (self.item("completed" if status == "completed" else "incomplete"),)
            read = self.outcome.input_tokens if self.outcome else 0
            written = self.outcome.output_tokens if self.outcome else 0
            usage = {
                "total_tokens": read + written,
                "input_tokens": read,
                "output_tokens": written,
            }
        return ev.Response(
            id=self.id,
            status=status,
            output=output,
            output_modalities=(self._modality,),
            status_details=details,
            usage=usage,
            metadata=self._metadata,
        )
