"""Events of the client on the data channel: OpenAI Realtime GA, parsed and validated.

Unknown members are ignored, so that newer SDKs work; unknown types and invalid members raise a
ProtocolError that names the member. Media worker.
"""

import base64
import binascii
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.settings import MAX_INSTRUCTIONS_CHARS, Modality, SessionSettings

MAX_TEXT_CHARS = 32 * 1024
MAX_IMAGE_CHARS = 8 * 1024 * 1024
MAX_PARTS = 32
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")

Id = Annotated[str, Meta(min_length=1, max_length=128)]
EventId = Annotated[str, Meta(max_length=512)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]

_DATA_URL = re.compile(r"data:(image/[a-z]+);base64,")


class SessionUpdate(msgspec.Struct, frozen=True):
    session: dict[str, Any]
    """Validated on its own; apply it with SessionSettings.merge."""
    event_id: EventId | None = None


class TextPart(msgspec.Struct, frozen=True):
    """input_text, output_text, or the transcript of an output_audio part."""

    text: str


class ImagePart(msgspec.Struct, frozen=True):
    """A decoded input_image."""

    media_type: str
    data: bytes
    detail: str = "auto"


class Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    parts: tuple[TextPart | ImagePart, ...]
    id: str | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    call_id: str
    name: str
    arguments: str
    id: str | None = None


class FunctionCallOutput(msgspec.Struct, frozen=True):
    call_id: str
    output: str
    id: str | None = None


class ItemCreate(msgspec.Struct, frozen=True):
    item: Message | FunctionCall | FunctionCallOutput
    previous_item_id: str | None = None
    event_id: str | None = None


class ItemDelete(msgspec.Struct, frozen=True):
    item_id: Id
    event_id: EventId | None = None


class ItemRetrieve(msgspec.Struct, frozen=True):
    item_id: Id
    event_id: EventId | None = None


class ItemTruncate(msgspec.Struct, frozen=True):
    item_id: Id
    audio_end_ms: Annotated[int, Meta(ge=0)]
    content_index: Annotated[int, Meta(ge=0)] = 0
    event_id: EventId | None = None


class ResponseOptions(msgspec.Struct, frozen=True):
    """What response.create may set for one response; null or absent keeps the session's."""

    instructions: Annotated[str, Meta(max_length=MAX_INSTRUCTIONS_CHARS)] | None = None
    output_modalities: Annotated[tuple[Modality, ...], Meta(min_length=1, max_length=2)] | None = (
        None
    )
    conversation: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=4096)] | Literal["inf"] | None = None
    metadata: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] | None = None


class ResponseCreate(msgspec.Struct, frozen=True):
    response: ResponseOptions | None = None
    event_id: EventId | None = None


class ResponseCancel(msgspec.Struct, frozen=True):
    response_id: Id | None = None
    event_id: EventId | None = None


class InputBufferCommit(msgspec.Struct, frozen=True):
    event_id: EventId | None = None


class InputBufferClear(msgspec.Struct, frozen=True):
    event_id: EventId | None = None


class OutputBufferClear(msgspec.Struct, frozen=True):
    event_id: EventId | None = None


ClientEvent = (
    SessionUpdate
    | ItemCreate
    | ItemDelete
    | ItemRetrieve
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | InputBufferCommit
    | InputBufferClear
    | OutputBufferClear
)

_PLAIN: dict[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    "conversation.item.delete": ItemDelete,
    "conversation.item.retrieve": ItemRetrieve,
    "conversation.item.truncate": ItemTruncate,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "input_audio_buffer.commit": InputBufferCommit,
    "input_audio_buffer.clear": InputBufferClear,
    "output_audio_buffer.clear": OutputBufferClear,
}
CLIENT_EVENT_TYPES = (*_PLAIN, "conversation.item.create")


class _RawPart(msgspec.Struct):
    type: str
    text: Text | None = None
    transcript: Text | None = None
    image_url: Annotated[str, Meta(max_length=MAX_IMAGE_CHARS)] | None = None
    detail: Literal["low", "auto", "high"] | None = None


class _RawMessage(msgspec.Struct, tag_field="type", tag="message"):
    role: Literal["user", "assistant", "system"]
    content: Annotated[list[_RawPart], Meta(min_length=1, max_length=MAX_PARTS)]
    id: Id | None = None


class _RawCall(msgspec.Struct, tag_field="type", tag="function_call"):
    call_id: Id
    name: Id
    arguments: Text
    id: Id | None = None


class _RawOutput(msgspec.Struct, tag_field="type", tag="function_call_output"):
    call_id: Id
    output: Text
    id: Id | None = None


class _RawItemCreate(msgspec.Struct):
    item: _RawMessage | _RawCall | _RawOutput
    previous_item_id: Id | None = None
    event_id: EventId | None = None


def parse_client_event(text: str) -> ClientEvent:
    """Parse one message of the data channel.

    Raises ProtocolError carrying the client's event_id if it has one.
    """
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ProtocolError(f"The event is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise ProtocolError("An event is a JSON object.", code="invalid_event")
    given_id = raw.get("event_id")
    event_id = given_id if isinstance(given_id, str) and len(given_id) <= 512 else None
    try:
        return _parse(raw)
    except ProtocolError as error:
        error.event_id = event_id
        raise


def _parse(raw: dict[str, Any]) -> ClientEvent:
    name = raw.get("type")
    if name is None:
        raise ProtocolError(
            "type: this field is required.", code="missing_required_parameter", param="type"
        )
    if name == "input_audio_buffer.append":
        raise ProtocolError(
            "input_audio_buffer.append is not for WebRTC: audio comes on the microphone track.",
            code="unsupported_event",
            param="type",
        )
    if name == "conversation.item.create":
        return _item_create(convert(raw, _RawItemCreate))
    struct = _PLAIN.get(name) if isinstance(name, str) else None
    if struct is None:
        allowed = ", ".join(CLIENT_EVENT_TYPES)
        raise ProtocolError(
            f'type: "{str(name)[:80]}" is no event known here; allowed: {allowed}.',
            code="unknown_event",
            param="type",
        )
    event = convert(raw, struct)
    if isinstance(event, SessionUpdate):
        SessionSettings().merge(event.session)
    return event


def _item_create(raw: _RawItemCreate) -> ItemCreate:
    item: Message | FunctionCall | FunctionCallOutput
    if isinstance(raw.item, _RawMessage):
        message = raw.item
        parts = tuple(
            _part(part, message.role, f"item.content.{index}")
            for index, part in enumerate(message.content)
        )
        item = Message(role=message.role, parts=parts, id=message.id)
    elif isinstance(raw.item, _RawCall):
        call = raw.item
        item = FunctionCall(call.call_id, call.name, call.arguments, call.id)
    else:
        item = FunctionCallOutput(raw.item.call_id, raw.item.output, raw.item.id)
    return ItemCreate(item=item, previous_item_id=raw.previous_item_id, event_id=raw.event_id)


_PART_TYPES = {
    "user": ("input_text", "input_image"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio", "text"),
}


def _part(part: _RawPart, role: str, where: str) -> TextPart | ImagePart:
    allowed = _PART_TYPES[role]
    if part.type == "input_audio":
        raise ProtocolError(
            f"{where}.type: input_audio is not taken; audio comes on the microphone track.",
            param=f"{where}.type",
        )
    if part.type not in allowed:
        names = ", ".join(f'"{name}"' for name in allowed)
        raise ProtocolError(
            f'{where}.type: "{part.type[:64]}" is not for role "{role}"; allowed: {names}.',
            param=f"{where}.type",
        )
    if part.type == "input_image":
        return _image(part, f"{where}.image_url")
    field = "transcript" if part.type == "output_audio" else "text"
    text = part.transcript if field == "transcript" else part.text
    if text is None:
        raise ProtocolError(
            f"{where}.{field}: this field is required.",
            code="missing_required_parameter",
            param=f"{where}.{field}",
        )
    return TextPart(text)


def _image(part: _RawPart, where: str) -> ImagePart:
    match = _DATA_URL.match(part.image_url or "")
    if match is None or match[1] not in IMAGE_TYPES:
        allowed = ", ".join(IMAGE_TYPES)
        raise ProtocolError(
            f"{where}: a data URL data:<type>;base64,... is expected, type one of {allowed}; "
            "pictures are not fetched from the network.",
            param=where,
        )
    try:
        data = base64.b64decode((part.image_url or "")[match.end() :], validate=True)
    except binascii.Error as error:
        raise ProtocolError(f"{where}: the base64 is invalid ({error}).", param=where) from None
    if not data:
        raise ProtocolError(f"{where}: the picture is empty.", param=where)
    return ImagePart(media_type=match[1], data=data, detail=part.detail or "auto")
