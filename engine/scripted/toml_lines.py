"""Which line of a TOML text holds which value, so that a complaint can say where to look."""

from __future__ import annotations

import re

_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\s-]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")


def line_of(text: str, path: str) -> int | None:
    """The line, from 1, of the value at `path`, such as `cue[2].say`, or of what holds it."""
    lines = _lines(text)
    while path:
        if path in lines:
            return lines[path]
        path = re.sub(r"(\.?[^.\[\]]+|\[[^\]]*\])$", "", path)
    return None


def _lines(text: str) -> dict[str, int]:
    """The first line of every table and key, by path."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header is not None:
            table = _enter(header[2], counts, is_array=header[1] == "[[")
            found.setdefault(table, number)
        elif (key := _KEY.match(line)) is not None:
            found.setdefault(f"{table}.{key[1]}" if table else key[1], number)
    return found


def _enter(name: str, counts: dict[str, int], *, is_array: bool) -> str:
    """The path of a table; of an array's, that of its newest element."""
    path = ""
    parts = [part.strip() for part in name.split(".")]
    for place, part in enumerate(parts):
        path = f"{path}.{part}" if path else part
        is_newest = is_array and place == len(parts) - 1
        if is_newest:
            counts[path] = counts.get(path, 0) + 1
        if path in counts:
            path = f"{path}[{counts[path] - 1}]"
    return path
