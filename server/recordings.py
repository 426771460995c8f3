"""What of a recorded call lies on disk: a folder for each below `recordings` of the data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

FOLDER = "recordings"
ABOUT = "call.json"
WORDS = "words.jsonl"
FEEDBACK = "feedback.jsonl"
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


class RecordedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `words.jsonl`: an item of the conversation as it stands, or what became of it."""

    at: float
    """Unix seconds."""
    item_id: str
    role: Literal["user", "assistant", "system", "function"]
    text: str
    """Of an answer what was heard; of a call of a function its name and arguments."""


def read_about(folder: Path) -> RecordedCall | None:
    """What is known of the call in this folder; None: nothing that can be read."""
    try:
        return msgspec.json.decode((folder / ABOUT).read_bytes(), type=RecordedCall)
    except UNREADABLE:
        return None
