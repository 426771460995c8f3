"""What events of OpenAI Realtime are made of: items, responses, errors. Media worker."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Json = dict[str, Any]


class WirePart(msgspec.Struct, frozen=True, kw_only=True):
    """A content part. In items: input_text, input_audio, input_image, input_video (ours),
    output_text, output_audio; in response.content_part.* text or audio.
    """

    type: Literal[
        "input_text",
        "input_audio",
        "input_image",
        "input_video",
        "output_text",
        "output_audio",
        "text",
        "audio",
    ]
    text: str | UnsetType = UNSET
    transcript: str | None | UnsetType = UNSET
    image_url: str | UnsetType = UNSET


class WireMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """What somebody said, wrote or showed."""

    id: str
    role: Literal["user", "assistant", "system"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: tuple[WirePart, ...] = ()
    object: str = "realtime.item"


class WireFunctionCall(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"
):
    """The assistant calls a function of the client."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]
    object: str = "realtime.item"


class WireFunctionOutput(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call_output"
):
    """What a function of the client gave back."""

    id: str
    call_id: str
    output: str
    status: Literal["in_progress", "completed", "incomplete"] = "completed"
    object: str = "realtime.item"


Item = WireMessage | WireFunctionCall | WireFunctionOutput


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The response object; `status_details` has type and reason (turn_detected, ...)."""

    id: str
    status: Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
    object: str = "realtime.response"
    output: tuple[Item, ...] = ()
    output_modalities: tuple[str, ...] = ("audio",)
    audio: Json | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    status_details: Json | None = None
    usage: Json | None = None
    metadata: Json | None = None
    conversation_id: str | None = None


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong; `param` names the member of the event, in dotted form."""

    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    event_id: str | None = None
    """The client's event that caused it."""


class ConversationObject(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation of the session."""

    id: str
    object: str = "realtime.conversation"
