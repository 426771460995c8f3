"""The base of all messages, the types of their fields, and how large they may be."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

INPUT_HZ = 16_000
OUTPUT_HZ = 24_000

MAX_AUDIO_BYTES = 2 * INPUT_HZ
MAX_OUTPUT_BYTES = 4 * OUTPUT_HZ
MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_SOUND_BYTES = 12 * 1024 * 1024
"""Of a sound file: a minute of stereo at 48 kHz, unpacked, is a little less."""
MAX_VIDEO_BYTES = 28 * 1024 * 1024
MAX_ITEM_PARTS = 32
MAX_ITEM_BYTES = 32 * 1024 * 1024
"""Of an encoded `ItemIn`."""
MAX_PIECE_BYTES = 256 * 1024
ROOT = "root"
MIN_COMMIT_MS = 100
COMMIT_EMPTY = "input_audio_buffer_commit_empty"
"""The code of a `RequestRefused` for a commit of less sound."""
MAX_MESSAGE_BYTES = MAX_IMAGE_BYTES + 65_536

SessionId = Annotated[str, Meta(min_length=1, max_length=64)]
Count = Annotated[int, Meta(ge=0)]
ItemId = Annotated[str, Meta(max_length=128)]
CallId = Annotated[str, Meta(min_length=1, max_length=128)]
RequestName = Annotated[str, Meta(max_length=64)]
"""By which the answer to a request names it."""
ContextKind = Literal["instructions", "thinking", "commentary"]
InputPcm = Annotated[bytes, Meta(max_length=MAX_AUDIO_BYTES)]
OutputPcm = Annotated[bytes, Meta(max_length=MAX_OUTPUT_BYTES)]


class Message(Struct, frozen=True, tag=True):
    """Base of everything that crosses a link."""


def utterance_item(number: int) -> str:
    """The name of what the user said."""
    return f"utterance-{number}"


def response_item(epoch: int) -> str:
    """The name of what a response says."""
    return f"response-{epoch}"


def call_item(call_id: str) -> str:
    """The name of a call that the engine made."""
    return f"call-{call_id}"
