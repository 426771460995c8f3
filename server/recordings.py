"""What of a recorded call lies on disk: a folder for each below `recordings` of the data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

FOLDER = "recordings"
ABOUT = "call.json"
WORDS = "words.jsonl"
FEEDBACK = "feedback.jsonl"
PICTURES = "pictures.mjpeg"
"""JPEGs, one behind the other; `SEEN` says where each begins."""
SEEN = "pictures.jsonl"
SOUNDS = ("user", "assistant")
"""NAME.wav, and NAME-2.wav where another media worker went on with the call."""
UNREADABLE = (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading a file raises that is not there, or not as we wrote it."""


class RecordedCall(msgspec.Struct, frozen=True, kw_only=True):
    """`call.json`."""

    call_id: str
    began_at: float
    """Unix seconds."""
    ended_at: float | None = None
    """None: it goes on, or its media worker died."""
    reason: str = ""
    is_cut_short: bool = False
    """More was said than one recording may hold, or the disk did not take it."""
    sounds_began_at: tuple[float, ...] = ()
    """Unix seconds: where `user.wav` and `assistant.wav` begin, then `user-2.wav` and so on."""


class RecordedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `words.jsonl`: an item of the conversation as it stands, or what became of it."""

    at: float
    """Unix seconds."""
    began_at: float
    """When it began to be said, written or heard: Unix seconds by the count of the sound, from
    `RecordedCall.sounds_began_at` on."""
    item_id: str
    role: Literal["user", "assistant", "system", "function"]
    text: str
    """Of an answer what was heard; of a call of a function its name and arguments."""


class RecordedPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `pictures.jsonl`: a picture of the camera or of what is shared."""

    at: float
    """Unix seconds by the count of the sound."""
    start: int
    """Where its JPEG begins in `pictures.mjpeg`, in bytes,"""
    size: int
    """and how long it is."""


def read_about(folder: Path) -> RecordedCall | None:
    """What is known of the call in this folder; None: nothing that can be read."""
    try:
        return msgspec.json.decode((folder / ABOUT).read_bytes(), type=RecordedCall)
    except UNREADABLE:
        return None
