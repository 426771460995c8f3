"""A long message as two, of which the first is short enough to be read at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from engine.minicpmo.session.item_decoding import DecodedItem, DecodedPart

ENDS = (r"\n", r"[.!?]\s|[。！？]", r"\s")
"""Of lines, sentences and words."""


def cut_item(
    item: DecodedItem, fits: Callable[[DecodedItem], bool]
) -> tuple[DecodedItem, DecodedItem] | None:
    """Return an item's beginning and the rest of it, both of its name; None: it is one thing.

    The beginning is at least a quarter as long as what fits, unless it is a picture or sound that
    does not fit by itself.
    """
    parts, count = item.parts, len(item.parts) // 2
    while count and not fits(replace(item, parts=parts[:count])):
        count //= 2
    if count:
        return _halves(item, parts[:count], parts[count:])
    first = parts[0] if parts else ""
    if not isinstance(first, str):
        return _halves(item, parts[:1], parts[1:]) if len(parts) > 1 else None
    at = len(first)
    while at > 1 and not fits(replace(item, parts=(first[:at],))):
        at = _seam(first[:at])
    rest = (*filter(None, [first[at:]]), *parts[1:])
    if at < 1 or not rest:
        return None
    return _halves(item, (first[:at],), rest)


def _halves(
    item: DecodedItem, beginning: tuple[DecodedPart, ...], rest: tuple[DecodedPart, ...]
) -> tuple[DecodedItem, DecodedItem]:
    return replace(item, parts=beginning), replace(item, parts=rest, is_rest=True)


def _seam(text: str) -> int:
    """Where a line, a sentence or a word ends, as near to the middle as there is one."""
    quarter, middle = len(text) // 4, len(text) // 2
    for mark in ENDS:
        found = re.compile(mark).finditer(text, max(0, quarter - 2), 3 * quarter)
        ends = [m.end() for m in found if quarter <= m.end()]
        if ends:
            return min(ends, key=lambda end: abs(end - middle))
    return middle
