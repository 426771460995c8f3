"""What was said so far, as text that a model reads when it begins anew with the same person."""

from __future__ import annotations

from collections.abc import Iterable

from signaling.session.core import Abilities
from signaling.session.items import FunctionOutputItem, Item, MessageItem
from signaling.settings import SemanticVad, SessionSettings

MAX_CHARS = 6_000
"""Of the newest words; the rest is left out."""
MAX_ITEMS = 64
MAX_KEPT_CHARS = 24_000
OPENING = "The conversation so far, which goes on now:"
_SPEAKERS = {"user": "User", "assistant": "You", "system": "Note"}


def recalled(items: Iterable[Item]) -> str:
    """The words of a conversation, the newest ones that fit; empty where there are none."""
    lines: list[str] = []
    size = 0
    for item in reversed(list(items)):
        line = _line(item)
        if not line:
            continue
        size += len(line) + 1
        if size > MAX_CHARS:
            break
        lines.append(line)
    return "\n".join([OPENING, *reversed(lines)]) if lines else ""


def newest(items: list[Item]) -> tuple[Item, ...]:
    """The newest items, oldest first, as many as are kept for a client or a model that comes
    back."""
    kept: list[Item] = []
    size = 0
    for item in reversed(items):
        size += _chars(item)
        if len(kept) == MAX_ITEMS or size > MAX_KEPT_CHARS:
            break
        kept.append(item)
    return tuple(reversed(kept))


def begins_anew(
    before: SessionSettings, after: SessionSettings, abilities: Abilities | None
) -> bool:
    """Whether the engine forgets the conversation with this change of settings.

    A model that hears in units keeps two forms of one: the stream of full duplex, which begins with
    its instructions, and turns, which it reads again by itself.
    """
    if abilities is None or not abilities.hears_in_units:
        return False
    was_full, is_full = (_is_full_duplex(settings) for settings in (before, after))
    return was_full != is_full or (is_full and before.instructions != after.instructions)


def _is_full_duplex(settings: SessionSettings) -> bool:
    return isinstance(settings.audio.input.turn_detection, SemanticVad)


def _line(item: Item) -> str:
    if isinstance(item, FunctionOutputItem):
        return f"Function: {_short(item.output)}"
    if not isinstance(item, MessageItem):
        return ""
    words = " ".join(part.text.strip() for part in item.parts if part.text and part.text.strip())
    shown = [f"[{part.kind}]" for part in item.parts if part.kind in ("image", "video")]
    said = " ".join([*shown, *([words] if words else [])])
    return f"{_SPEAKERS[item.role]}: {_short(said)}" if said else ""


def _chars(item: Item) -> int:
    match item:
        case MessageItem():
            return sum(len(part.text or "") for part in item.parts)
        case FunctionOutputItem():
            return len(item.output)
        case _:
            return len(item.arguments)


def _short(text: str) -> str:
    most = MAX_CHARS // 4
    return text if len(text) <= most else text[: most - 1] + "…"
