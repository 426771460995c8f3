"""Numbers as people say them, and back to what is shown and spoken."""

from __future__ import annotations

import re

_UNITS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
        " fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 20 + 10 * index
    for index, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())
}
_SCALES = {"thousand": 1_000, "million": 1_000_000}

_DIGITS = re.compile(r"-?\d{1,12}(?:\.\d{1,6})?")


def read_number(words: list[str]) -> float | None:
    """The value of spoken words or digits, all of which must belong to it; None if they do not."""
    if not words or len(words) > 16:
        return None
    if words[0] in ("minus", "negative"):
        value = read_number(words[1:])
        return None if value is None else -value
    if len(words) == 1 and _DIGITS.fullmatch(words[0]):
        return float(words[0])
    if "point" in words:
        return _read_decimal(words)
    if words == ["a", "dozen"] or words == ["dozen"]:
        return 12
    return _read_whole(words)


def _read_decimal(words: list[str]) -> float | None:
    at = words.index("point")
    whole = read_number(words[:at])
    digits = [_UNITS.get(word, 10) for word in words[at + 1 :]]
    if whole is None or not digits or max(digits) > 9:
        return None
    return float(f"{int(whole)}.{''.join(map(str, digits))}")


def _read_whole(words: list[str]) -> float | None:
    total = group = 0
    last = "start"
    for word in words:
        kind = _kind(word)
        if kind == "and" and last in ("hundred", "scale"):
            continue
        if kind == "unit" and last != "unit":
            if last == "tens" and not 1 <= _UNITS[word] <= 9:
                return None
            group += _UNITS[word]
            last = "unit"
        elif kind == "tens" and last in ("start", "hundred", "scale"):
            group += _TENS[word]
            last = "tens"
        elif kind == "hundred" and last in ("start", "unit"):
            group = max(1, group) * 100
            last = "hundred"
        elif kind == "scale" and last != "scale":
            total += max(1, group) * _SCALES[word]
            group, last = 0, "scale"
        elif kind == "article" and last == "start":
            continue
        else:
            return None
    return None if last == "start" else float(total + group)


def _kind(word: str) -> str:
    if word in _UNITS:
        return "unit"
    if word in _TENS:
        return "tens"
    if word in _SCALES:
        return "scale"
    return {"hundred": "hundred", "and": "and", "a": "article"}.get(word, "")


def show_number(value: float) -> str:
    """Digits, at most two behind the point."""
    if abs(value - round(value)) < 1e-9:
        return str(round(value))
    return f"{value:.2f}".rstrip("0").rstrip(".")
