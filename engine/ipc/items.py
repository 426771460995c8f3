"""Items of a conversation on their way to the engine: text, files, calls of functions."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.ipc.message import (
    MAX_IMAGE_BYTES,
    MAX_ITEM_PARTS,
    MAX_PIECE_BYTES,
    MAX_SOUND_BYTES,
    MAX_VIDEO_BYTES,
    CallId,
    ItemId,
    Message,
    SessionId,
)
from engine.ipc.session_config import FunctionName, Text


class TextPart(Struct, frozen=True, tag="text"):
    text: Text


class ImagePart(Struct, frozen=True, tag="image"):
    data: Annotated[bytes, Meta(max_length=MAX_IMAGE_BYTES)]
    """An encoded picture file; which kinds are read, the engine says."""
    max_slices: Annotated[int, Meta(ge=0, le=16)] = 0
    """In how many it may be cut to be read in detail, each of which takes as much of what the model
    can remember as a rough look; 1: a rough look is enough; 0: as the session says."""


class AudioPart(Struct, frozen=True, tag="audio"):
    pcm: Annotated[bytes, Meta(max_length=MAX_SOUND_BYTES)]
    """A recording: 24 kHz, as clients send it, not yet at the model's rate; or a sound file."""


class VideoPart(Struct, frozen=True, tag="video"):
    data: Annotated[bytes, Meta(max_length=MAX_VIDEO_BYTES)]
    """An encoded MP4, QuickTime, WebM or Matroska file."""


ItemPart = TextPart | ImagePart | AudioPart | VideoPart


class ItemIn(Message, frozen=True):
    """Add an item to the conversation; it is answered only when `CreateResponse` follows."""

    session: SessionId
    item: ItemId
    role: Literal["user", "assistant", "system"]
    parts: Annotated[tuple[ItemPart, ...], Meta(max_length=MAX_ITEM_PARTS)]
    after: ItemId = ""
    """The item before it; empty: the end of the conversation. `ROOT`: the beginning. What the
    engine itself put there has the names of `utterance_item`, `response_item` and `call_item`."""


class FunctionCallIn(Message, frozen=True):
    """Put a call that the assistant once made into the conversation, as a client replays it."""

    session: SessionId
    item: ItemId
    call_id: CallId
    name: FunctionName
    arguments: Text
    after: ItemId = ""


class FunctionOutputIn(Message, frozen=True):
    """What a function gave back; it is answered only when `CreateResponse` follows."""

    session: SessionId
    item: ItemId
    call_id: CallId
    output: Text
    after: ItemId = ""


class ItemPiece(Message, frozen=True):
    """A part of an encoded `ItemIn` too large for one message, in order.

    A `first` one begins anew, so that an item that was never completed does no harm.
    """

    session: SessionId
    data: Annotated[bytes, Meta(max_length=MAX_PIECE_BYTES)]
    first: bool
    last: bool


class DeleteItem(Message, frozen=True):
    """Take an item out, whoever made it: the names are those of `ItemIn.after`."""

    session: SessionId
    item: ItemId
