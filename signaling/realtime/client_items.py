"""Items that clients put into a conversation: message parts, parsed, decoded and bounded.

The parts are those of OpenAI Realtime GA, and `input_video`, an extension in the same style. Front
(uploads) and media worker (data channel).
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.session.items import (
    FunctionCall,
    FunctionCallOutput,
    InputAudioPart,
    InputImagePart,
    InputItem,
    InputMessage,
    InputPart,
    InputTextPart,
    InputVideoPart,
)
from signaling.texts import decode_json, plain_names

MAX_TEXT_CHARS = 32 * 1024
MAX_IMAGE_CHARS = 8 * 1024 * 1024
MAX_VIDEO_BYTES = 28 * 1024 * 1024
"""What remains of an upload when its base64 is decoded."""
MAX_VIDEO_CHARS = MAX_VIDEO_BYTES // 3 * 4 + 256
AUDIO_HZ = 24_000
MIN_AUDIO_MS = 100
MAX_AUDIO_S = 60
MAX_AUDIO_CHARS = MAX_AUDIO_S * AUDIO_HZ * 2 // 3 * 4 + 4
MAX_PARTS = 32
MAX_UPLOAD_COMMAS = 100_000
"""Bounds what an upload's JSON may unpack to: 40 MB of `{},` would be gigabytes of objects."""
UNTYPED = "application/octet-stream"
"""What browsers call files that they do not know, such as HEIC."""

Id = Annotated[str, Meta(min_length=1, max_length=128)]
EventId = Annotated[str, Meta(max_length=512)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]

# Recorders name their codecs in the type: video/webm;codecs=vp8.
_DATA_URL = re.compile(
    r"data:([a-z]+/[a-z0-9.+-]{1,64})(?:;[a-z]+=[\w\", .-]{1,64})?;base64,", re.IGNORECASE
)


class ItemCreate(msgspec.Struct, frozen=True):
    """An item for the conversation, read and decoded."""

    item: InputItem
    previous_item_id: str | None = None
    event_id: str | None = None
    unused: tuple[str, ...] = ()
    """The members that change nothing, in dotted names."""


class RawPart(msgspec.Struct):
    """A part of a message: words, a picture, sound or a film. Files are data URLs."""

    type: str
    text: Text | None = None
    transcript: Text | None = None
    image_url: Annotated[str, Meta(max_length=MAX_IMAGE_CHARS)] | None = None
    detail: Literal["low", "auto", "high"] | None = None
    audio: Annotated[str, Meta(max_length=MAX_AUDIO_CHARS)] | None = None
    video_url: Annotated[str, Meta(max_length=MAX_VIDEO_CHARS)] | None = None


class RawMessage(msgspec.Struct, tag_field="type", tag="message"):
    """What somebody says, writes or shows."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[RawPart], Meta(min_length=1, max_length=MAX_PARTS)]
    id: Id | None = None


class RawCall(msgspec.Struct, tag_field="type", tag="function_call"):
    """A call that the assistant made in an earlier conversation."""

    call_id: Id
    name: Id
    arguments: Text
    id: Id | None = None


class RawOutput(msgspec.Struct, tag_field="type", tag="function_call_output"):
    """What a function gave back."""

    call_id: Id
    output: Text
    id: Id | None = None


class RawItemCreate(msgspec.Struct):
    """Put an item into the conversation; it is answered after `response.create` only."""

    item: RawMessage | RawCall | RawOutput
    previous_item_id: Id | None = None
    event_id: EventId | None = None


def parse_upload(body: bytes) -> ItemCreate:
    """Parse the JSON of an item by itself; raises ProtocolError, whose fields begin with `item`.

    Megabytes take a tenth of a second: not for an event loop.
    """
    if body.count(b",") > MAX_UPLOAD_COMMAS:
        raise ProtocolError(
            f"item: JSON with more than {MAX_UPLOAD_COMMAS} commas is not accepted.",
            code="too_large",
            param="item",
            status=413,
        )
    try:
        item = decode_json(body)
    except ValueError as error:
        raise ProtocolError(f"The item is not JSON: {error}.", code="invalid_json") from None
    return parse_item_create({"item": item})


def parse_item_create(raw: dict[str, Any]) -> ItemCreate:
    """Parse the members of a conversation.item.create; raises ProtocolError."""
    create = _item_create(convert(raw, RawItemCreate))
    return msgspec.structs.replace(create, unused=unused_members(raw["item"]))


def parse_input_item(raw: dict[str, Any], where: str) -> InputItem:
    """Parse one item of a list at `where`; raises ProtocolError."""
    try:
        return parse_item_create({"item": raw}).item
    except ProtocolError as error:
        for_list = (error.param or "item").replace("item", where, 1)
        error.message = error.message.replace(error.param or "item", for_list, 1)
        error.param = for_list
        raise


def _item_create(raw: RawItemCreate) -> ItemCreate:
    item: InputItem
    if isinstance(raw.item, RawMessage):
        message = raw.item
        parts = tuple(
            _part(part, message.role, f"item.content.{index}")
            for index, part in enumerate(message.content)
        )
        item = InputMessage(role=message.role, parts=parts, id=message.id)
    elif isinstance(raw.item, RawCall):
        call = raw.item
        item = FunctionCall(call.call_id, call.name, call.arguments, call.id)
    else:
        item = FunctionCallOutput(raw.item.call_id, raw.item.output, raw.item.id)
    return ItemCreate(item, raw.previous_item_id, raw.event_id)


_PART_TYPES = {
    "user": ("input_text", "input_image", "input_audio", "input_video"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio", "text"),
}


_USED = {
    "input_image": ("image_url", "detail"),
    "input_video": ("video_url",),
    "input_audio": ("audio", "transcript"),
    "output_audio": ("transcript",),
}
"""The members that a part of a type is made of; of other types `text`."""


_FIELDS = {
    "message": RawMessage.__struct_fields__,
    "function_call": RawCall.__struct_fields__,
    "function_call_output": RawOutput.__struct_fields__,
}
_STANDING = ("type", "object", "status")
"""What items are told with and clients give back: says what an item is, and how it stands."""


def unused_members(item: dict[str, Any], where: str = "item") -> tuple[str, ...]:
    """The members of an item that was parsed that change nothing, in dotted names."""
    return plain_names(_unused(item, where))


def _unused(item: dict[str, Any], where: str) -> Iterator[str]:
    for name, value in item.items():
        if value is not None and name not in (*_STANDING, *_FIELDS.get(item["type"], ("id",))):
            yield f"{where}.{name}"
    # Of others it is a member like any, of any shape.
    for index, part in enumerate(item["content"] if item["type"] == "message" else ()):
        for name, value in part.items():
            if value is not None and name not in ("type", *_USED.get(part["type"], ("text",))):
                yield f"{where}.content.{index}.{name}"


def _part(part: RawPart, role: str, where: str) -> InputPart:
    allowed = _PART_TYPES[role]
    if part.type not in allowed:
        names = ", ".join(f'"{name}"' for name in allowed)
        raise ProtocolError(
            f'{where}.type: "{part.type[:64]}" is not for role "{role}"; allowed: {names}.',
            param=f"{where}.type",
        )
    match part.type:
        case "input_image":
            where = f"{where}.image_url"
            return InputImagePart(*_file(part.image_url, "image", where), part.detail or "auto")
        case "input_video":
            return InputVideoPart(*_file(part.video_url, "video", f"{where}.video_url"))
        case "input_audio":
            return InputAudioPart(_pcm(part.audio, f"{where}.audio"), part.transcript)
    field = "transcript" if part.type == "output_audio" else "text"
    text = part.transcript if field == "transcript" else part.text
    if text is None:
        raise _missing(f"{where}.{field}")
    return InputTextPart(text)


def _file(url: str | None, kind: str, where: str) -> tuple[str, bytes]:
    """Return the media type and the bytes of a data URL.

    Types are often wrong: what a file is, its bytes say, and an engine that cannot read them leaves
    out this part and keeps the words beside it.
    """
    match = _DATA_URL.match(url or "")
    media_type = match[1].lower() if match is not None else ""
    if url is None or match is None or not media_type.startswith((f"{kind}/", UNTYPED)):
        raise ProtocolError(
            f"{where}: a data URL data:{kind}/<type>;base64,... is expected; nothing is fetched "
            "from the network.",
            param=where,
        )
    data = decoded(url[match.end() :], where)
    if not data:
        raise ProtocolError(f"{where}: the file is empty.", param=where)
    return media_type, data


def _pcm(text: str | None, where: str) -> bytes:
    if text is None:
        raise _missing(where)
    pcm = decoded(text, where)
    if len(pcm) % 2:
        raise ProtocolError(
            f"{where}: {len(pcm)} bytes are no whole number of 16-bit samples.", param=where
        )
    ms = len(pcm) * 1000 // (2 * AUDIO_HZ)
    if not MIN_AUDIO_MS <= ms <= MAX_AUDIO_S * 1000:
        raise ProtocolError(
            f"{where}: from {MIN_AUDIO_MS} ms to {MAX_AUDIO_S} s of 16-bit PCM at {AUDIO_HZ} Hz, "
            f"mono, are taken, got {ms} ms.",
            param=where,
        )
    return pcm


def decoded(text: str, where: str) -> bytes:
    """Decode base64; raises ProtocolError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"{where}: the base64 is invalid ({error}).", param=where) from None


def _missing(where: str) -> ProtocolError:
    return ProtocolError(
        f"{where}: this field is required.", code="missing_required_parameter", param=where
    )
