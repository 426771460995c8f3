"""Functions of a Live session: what a text model's response is called where it calls some. Media
worker.

In Live a voice model hands tasks to a text model that calls functions. Here one model does both:
a response that calls functions is told as a delegation with the stream of OpenAI's Responses API.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from signaling.errors import ProtocolError
from signaling.live import server_events as wire
from signaling.live.client_events import MAX_ITEM_BYTES
from signaling.live.typed_message import read_message
from signaling.session import events as ev
from signaling.session.items import (
    FunctionCallItem,
    FunctionCallOutput,
    InputMessage,
    InputTextPart,
)

MAX_ITEMS = 128
MAX_WAITING = 256


class BackendStream:
    """Owns the calls of one session that wait for their outputs."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._delegations: dict[str, str] = {}
        """Of the responses that are being told: response -> delegation."""
        self._waiting: dict[str, str] = {}
        """Calls without output: call -> delegation."""
        self._continues: str | None = None
        """The delegation of the response that was asked for last."""
        self._last = ""
        self._has_message = False
        """Somebody has typed what no response was asked for yet."""
        self._number = 0
        self._items = 0
        self._bytes = 0

    # ------------------------------------------------------------------ to the client

    def told(
        self, event: ev.SessionEvent, *, model: str, offset_ms: int
    ) -> Iterator[wire.LiveServerEvent]:
        match event:
            case ev.ResponseBegan(response=response) if self._continues is not None:
                self._delegations[response.id], self._continues = self._continues, None
                yield self._snapshot("response.created", response, model)
            case ev.OutputStarted(item=FunctionCallItem() as item):
                response = event.response
                if response.id not in self._delegations:
                    self._delegations[response.id] = item.id
                    info = wire.DelegationInfo(
                        id=item.id, target="responses", response_id=response.id
                    )
                    yield wire.DelegationCreatedEvent(offset_ms=offset_ms, delegation=info)
                    yield self._snapshot("response.created", response, model)
                added = {"output_index": event.index, "item": _shown(item)}
                yield self._event("response.output_item.added", response.id, added)
            case ev.ArgumentsGrew():
                more = {"output_index": event.index, "item_id": event.item_id, "delta": event.text}
                name = "response.function_call_arguments.delta"
                yield self._event(name, event.response_id, more)
            case ev.OutputEnded(item=FunctionCallItem() as item):
                yield from self._call_ended(event, item)
            case ev.ResponseEnded(response=response) if response.id in self._delegations:
                yield self._snapshot(f"response.{_outcome(response)}", response, model)
                self._last = self._delegations.pop(response.id)

    def _call_ended(
        self, event: ev.OutputEnded, item: FunctionCallItem
    ) -> Iterator[wire.LiveServerEvent]:
        response_id, where = event.response.id, {"output_index": event.index}
        if item.status == "completed":
            self._waiting[item.call_id] = self._delegations.get(response_id, item.id)
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
        whole = {**where, "item_id": item.id, "name": item.name, "arguments": item.arguments}
        yield self._event("response.function_call_arguments.done", response_id, whole)
        done = {**where, "item": _shown(item)}
        yield self._event("response.output_item.done", response_id, done)

    def _snapshot(self, name: str, response: ev.ResponseInfo, model: str) -> wire.LiveServerEvent:
        return self._event(name, response.id, {"response": self._response(response, model)})

    def _event(self, name: str, response_id: str, more: dict[str, Any]) -> wire.LiveServerEvent:
        self._number += 1
        return wire.BackendEvent(
            delegation_id=self._delegations.get(response_id, msgspec.UNSET),
            event={"type": name, "sequence_number": self._number, **more},
        )

    def _response(self, response: ev.ResponseInfo, model: str) -> dict[str, Any]:
        """Return a snapshot; as in Live without output, instructions and tools."""
        shown: dict[str, Any] = {
            "id": response.id,
            "object": "response",
            "created_at": int(self._wall_clock()),
            "model": model,
            "status": _outcome(response),
            "output": [],
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
        }
        if response.usage is not None:
            read, written = response.usage.input_tokens, response.usage.output_tokens
            shown["usage"] = {
                "input_tokens": read,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read + written,
            }
        return shown

    # ------------------------------------------------------------------ from the client

    def read(self, item: dict[str, Any]) -> FunctionCallOutput | InputMessage:
        """Read the item of a `response.item.create`; raises `ProtocolError`."""
        kind = item.get("type", "message")
        if kind not in ("function_call_output", "message"):
            raise ProtocolError(
                f"item.type: {str(kind)[:40]!r} is not served; "
                'allowed: "function_call_output", "message".',
                code="unsupported_value",
                param="item.type",
            )
        read = read_message(item) if kind == "message" else self._output(item)
        self._items += 1
        self._bytes += _size_of(read)
        if self._items > MAX_ITEMS or self._bytes > MAX_ITEM_BYTES:
            raise ProtocolError(
                f"item: at most {MAX_ITEMS} items and {MAX_ITEM_BYTES} bytes of them are taken "
                "in one session.",
                code="response_input_buffer_full",
                param="item",
            )
        return read

    def _output(self, item: dict[str, Any]) -> FunctionCallOutput:
        call_id, output = item.get("call_id"), item.get("output")
        if not isinstance(call_id, str) or call_id not in self._waiting:
            raise ProtocolError(
                f"item.call_id: no call {str(call_id)[:80]!r} waits for its output.",
                param="item.call_id",
            )
        if not isinstance(output, str):
            raise ProtocolError("item.output: a string is expected.", param="item.output")
        return FunctionCallOutput(call_id=call_id, output=output)

    def taken(self, item: FunctionCallOutput | InputMessage) -> None:
        """Note that the session has an item."""
        if isinstance(item, FunctionCallOutput):
            self._last = self._waiting.pop(item.call_id)
        else:
            self._has_message = True

    def answered_task(self) -> str:
        """Return the delegation whose calls were all answered last, empty where only a message is
        to be answered; raises `ProtocolError`."""
        if self._waiting:
            missing = ", ".join(self._waiting)
            raise ProtocolError(
                f"Calls still wait for their outputs: {missing}.",
                code="function_call_outputs_required",
            )
        if not (self._last or self._has_message):
            told = "There is no delegation to go on with, and no message to answer."
            raise ProtocolError(told, code="invalid_value")
        return self._last

    def go_on(self, delegation_id: str) -> None:
        """Assign the next response to this delegation; empty: it is none's."""
        self._has_message = False
        self._continues = delegation_id or None


def _size_of(item: FunctionCallOutput | InputMessage) -> int:
    if isinstance(item, FunctionCallOutput):
        return len(item.output.encode())
    return sum(len(part.text.encode()) for part in item.parts if isinstance(part, InputTextPart))


def _outcome(response: ev.ResponseInfo) -> str:
    """Return how the work of a response ended; an interruption leaves its calls as they are."""
    if response.status != "cancelled":
        return response.status
    calls = [item for item in response.output if isinstance(item, FunctionCallItem)]
    return "completed" if all(call.status == "completed" for call in calls) else "incomplete"


def _shown(item: FunctionCallItem) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": item.id,
        "call_id": item.call_id,
        "name": item.name,
        "arguments": item.arguments,
        "status": item.status,
    }
