"""Answers of chat requests in OpenAI's shapes: one object, or chunks of an event stream. Front.

OpenAI API reference, "The chat completion object" and "The chat completion chunk object".
"""

import base64
from typing import Any, Literal

import msgspec

from signaling.chat.answer import CallPiece, ChatUsage, FinishReason
from signaling.errors import ProtocolError

END = b"data: [DONE]\n\n"
WAIT = b": wait\n\n"
"""A comment: keeps proxies from taking a long prefill for a dead connection."""
GROUP_BYTES = 6
"""Sound is sent in multiples of it: whole samples and whole groups of base64, so that pieces may be
decoded one by one or joined as text.
"""


class ChatUsageObject(msgspec.Struct, omit_defaults=True):
    """Tokens of a request; the details hold the kinds that the engine tells apart."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] = {}
    """`text_tokens`, `audio_tokens`, `image_tokens`, and `cached_tokens` of all kinds."""
    completion_tokens_details: dict[str, int] = {}
    """`text_tokens`, `audio_tokens`."""

    @classmethod
    def of(cls, usage: ChatUsage) -> "ChatUsageObject":
        return cls(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens + usage.completion_tokens,
            usage.prompt_kinds.counted(),
            usage.completion_kinds.counted(),
        )


class CompletionHead(msgspec.Struct, frozen=True):
    """What all objects about one answer have in common."""

    id: str
    created: int
    model: str


def data_line(value: Any) -> bytes:
    """An event of the stream."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def error_line(error: ProtocolError) -> bytes:
    """The event for what goes wrong after the answer has begun."""
    shown = {"message": error.message, "type": error.type, "code": error.code, "param": error.param}
    return data_line({"error": shown})


def chunk(
    head: CompletionHead, delta: dict[str, Any], finish_reason: FinishReason | None = None
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return data_line(_object(head, "chat.completion.chunk") | {"choices": [choice]})


def usage_chunk(head: CompletionHead, usage: ChatUsage) -> bytes:
    """The chunk behind the last, which has no choices."""
    told = {"choices": [], "usage": ChatUsageObject.of(usage)}
    return data_line(_object(head, "chat.completion.chunk") | told)


def call_delta(piece: CallPiece, index: int, *, is_first: bool) -> dict[str, Any]:
    """The delta for a piece of a call."""
    call: dict[str, Any] = {"index": index, "function": {"arguments": piece.arguments}}
    if is_first:
        named = {"name": piece.name, "arguments": piece.arguments}
        call |= {"id": piece.call_id, "type": "function", "function": named}
    return {"tool_calls": [call]}


class ToolCallObject(msgspec.Struct):
    id: str
    function: dict[str, str]
    type: Literal["function"] = "function"


class SpeechObject(msgspec.Struct):
    """The `audio` of a message."""

    id: str
    data: str
    expires_at: int
    transcript: str


def completion(
    head: CompletionHead,
    text: str,
    speech: SpeechObject | None,
    calls: list[ToolCallObject],
    finish_reason: FinishReason,
    usage: ChatUsage,
) -> bytes:
    """The whole answer. Megabytes of sound take long to encode: not for an event loop then."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if speech is None and (text or not calls) else None,
        "refusal": None,
        "annotations": [],
    }
    if speech is not None:
        message["audio"] = speech
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    told = {"choices": [choice], "usage": ChatUsageObject.of(usage)}
    return msgspec.json.encode(_object(head, "chat.completion") | told)


class Base64Groups:
    """Cuts bytes that come in pieces of any size into such that base64 needs no padding for."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> str:
        """Return the base64 of what is complete."""
        data = self._rest + data
        whole = len(data) // GROUP_BYTES * GROUP_BYTES
        self._rest = data[whole:]
        return base64.b64encode(data[:whole]).decode()

    def flush(self) -> str:
        rest, self._rest = self._rest, b""
        return base64.b64encode(rest).decode()


def _object(head: CompletionHead, kind: str) -> dict[str, Any]:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}
