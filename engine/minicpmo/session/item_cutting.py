"""A long message as two, of which the first is short enough to be read at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from engine.minicpmo.session.item_decoding import DecodedItem

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
        return replace(item, parts=parts[:count]), replace(item, parts=parts[count:])
    first = parts[0] if parts else ""
    if not isinstance(first, str):
        whole = replace(item, parts=parts[:1]), replace(item, parts=parts[1:])
        return whole if len(parts) > 1 else None
    at = len(first)
    while at > 1 and not fits(replace(item, parts=(first[:at],))):
        at = _seam(first[:at])
    rest = (*filter(None, [first[at:]]), *parts[1:])
    if at < 1 or not rest:
        return None
    return replace(item, parts=(first[:at],)), replace(item, parts=rest)


def _seam(text: str) -> int:
    """Where a line, a sentence or a word ends, as near to the middle as there is one."""
    quarter, middle = len(text) // 4, len(text) // 2
    for mark in ENDS:
        ends = [m.end() for m in re.finditer(mark, text) if quarter <= m.end() <= 3 * quarter]
        if ends:
            return min(ends, key=lambda end: abs(end - middle))
    return middle
