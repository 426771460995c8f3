"""The items of a conversation, whichever protocol brings or shows them. Front and media worker.

What a client gives holds its files, decoded; what is kept and told afterwards does not.
"""

from typing import Literal

import msgspec

Role = Literal["user", "assistant", "system"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

ROOT = "root"
"""In the place of an item's id: the beginning of the conversation."""


class InputTextPart(msgspec.Struct, frozen=True):
    """Something written, or the transcript of something said."""

    text: str


class InputImagePart(msgspec.Struct, frozen=True):
    """An encoded picture file."""

    media_type: str
    data: bytes
    detail: str = "auto"


class InputAudioPart(msgspec.Struct, frozen=True):
    """PCM16 little endian, mono, 24 kHz; or a sound file."""

    pcm: bytes
    transcript: str | None = None


class InputVideoPart(msgspec.Struct, frozen=True):
    """A whole file."""

    media_type: str
    data: bytes


InputPart = InputTextPart | InputImagePart | InputAudioPart | InputVideoPart


class InputMessage(msgspec.Struct, frozen=True):
    role: Role
    parts: tuple[InputPart, ...]
    id: str | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    """A call that the assistant made in an earlier conversation."""

    call_id: str
    name: str
    arguments: str
    id: str | None = None


class FunctionCallOutput(msgspec.Struct, frozen=True):
    call_id: str
    output: str
    id: str | None = None


InputItem = InputMessage | FunctionCall | FunctionCallOutput


class ShownPart(msgspec.Struct, frozen=True):
    """A part of a message without its file."""

    kind: Literal["text", "audio", "image", "video"]
    text: str | None = None
    """What is written, or what was said if that is known."""


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, tag="message"):
    id: str
    role: Role
    status: ItemStatus = "completed"
    parts: tuple[ShownPart, ...] = ()


class FunctionCallItem(msgspec.Struct, frozen=True, kw_only=True, tag="call"):
    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "completed"


class FunctionOutputItem(msgspec.Struct, frozen=True, kw_only=True, tag="output"):
    id: str
    call_id: str
    output: str


Item = MessageItem | FunctionCallItem | FunctionOutputItem


def shown(item_id: str, item: InputItem) -> Item:
    """An item of a client as it is kept: without the files, which may be megabytes."""
    match item:
        case InputMessage():
            parts = tuple(map(_shown_part, item.parts))
            return MessageItem(id=item_id, role=item.role, parts=parts)
        case FunctionCall():
            return FunctionCallItem(
                id=item_id, call_id=item.call_id, name=item.name, arguments=item.arguments
            )
        case FunctionCallOutput():
            return FunctionOutputItem(id=item_id, call_id=item.call_id, output=item.output)


def _shown_part(part: InputPart) -> ShownPart:
    match part:
        case InputTextPart():
            return ShownPart("text", part.text)
        case InputAudioPart():
            return ShownPart("audio", part.transcript)
        case InputImagePart():
            return ShownPart("image")
        case InputVideoPart():
            return ShownPart("video")
