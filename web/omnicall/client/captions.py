"""What both sides say, from the server's events."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple

from omnicall.client.carrier import Event

MAX_ITEMS = 64
MAX_CHARS = 32 * 1024

Role = Literal["user", "assistant"]

WORDS: dict[str, tuple[Role, str]] = {
    "conversation.item.input_audio_transcription.delta": ("user", "delta"),
    "conversation.item.input_audio_transcription.completed": ("user", "transcript"),
    "response.output_audio_transcript.delta": ("assistant", "delta"),
    "response.output_audio_transcript.done": ("assistant", "transcript"),
    "response.output_text.delta": ("assistant", "delta"),
    "response.output_text.done": ("assistant", "text"),
}
"""By event: who speaks, and the field with the words."""


class Caption(NamedTuple):
    """What was said in an item so far; no more comes when it `is_final`."""

    role: Role
    item_id: str
    text: str
    is_final: bool


class Captioner:
    """Holds the words of items that are being said, the newest 64."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()

    def apply(self, event: Event) -> Caption | None:
        """The caption that an event changes."""
        if (found := WORDS.get(str(event.get("type")))) is None:
            return None
        role, field = found
        item_id = str(event.get("item_id", ""))
        words = str(event.get(field, ""))
        if field != "delta":
            self._texts.pop(item_id, None)
            return Caption(role, item_id, words.strip(), is_final=True)
        text = (self._texts.get(item_id, "") + words)[:MAX_CHARS]
        self._texts[item_id] = text
        self._texts.move_to_end(item_id)
        if len(self._texts) > MAX_ITEMS:
            self._texts.popitem(last=False)
        return Caption(role, item_id, text.strip(), is_final=False)
