"""Cuts a stream of text into clauses that can be spoken on their own, as early as possible."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

MAX_CLAUSE_CHARS = 200
MIN_COMMA_CHARS = 12
"""A comma ends a clause only after this many characters, or speech becomes choppy."""

SENTENCE_ENDS = ".!?…"
COMMAS = ",;:"
WIDE_SENTENCE_ENDS = "。！？"
WIDE_COMMAS = "，；：、"
CLOSERS = "\"'”’)]"
ABBREVIATIONS = frozenset(
    "mr mrs ms dr st prof sr jr vs etc e.g i.e a.m p.m no fig approx inc ltd u.s u.k".split()
)
_LAST_WORD = re.compile(r"([A-Za-z.]+)\.$")
_SILENT = str.maketrans(dict.fromkeys("*_`#~|<>{}[]\\^", " "))


class Clause(Struct, frozen=True):
    """A piece of a reply, white space included, so that all clauses together are the reply."""

    text: str
    pause_ms: int = 0
    """Silence that belongs after it."""


class ClauseSplitter:
    """Owns the text of one reply that is not yet a whole clause."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, delta: str) -> Iterator[Clause]:
        """Take more text; yield every clause that is now known to be complete."""
        self._text += delta
        while (end := self._find_end()) is not None:
            clause, self._text = self._text[:end], self._text[end:]
            yield Clause(clause, pause_after(clause))

    def flush(self) -> Iterator[Clause]:
        """Yield what is left at the end of the reply."""
        rest, self._text = self._text, ""
        if rest:
            yield Clause(rest, pause_after(rest))

    def _find_end(self) -> int | None:
        text = self._text
        for at, char in enumerate(text):
            if char in WIDE_SENTENCE_ENDS or char in WIDE_COMMAS:
                return at + 1
            if char == "\n" and text[: at + 1].strip():
                return at + 1
            if char in SENTENCE_ENDS or char in COMMAS:
                end = self._end_after(at)
                if end is not None:
                    return end
        if len(text) > MAX_CLAUSE_CHARS:
            space = text.rfind(" ", 1, MAX_CLAUSE_CHARS)
            return space + 1 if space > 0 else MAX_CLAUSE_CHARS
        return None

    def _end_after(self, at: int) -> int | None:
        """The end of the clause closed by the mark at `at`, if it closes one."""
        text = self._text
        end = at + 1
        while end < len(text) and (text[end] in CLOSERS or text[end] in SENTENCE_ENDS):
            end += 1
        # The next character decides between "3." and "3.5", so an end of the text is no end yet.
        if end >= len(text) or not text[end].isspace():
            return None
        head = text[: at + 1]
        if text[at] in COMMAS and len(head.strip()) < MIN_COMMA_CHARS:
            return None
        if text[at] == "." and _is_abbreviation(head):
            return None
        return end + 1


def _is_abbreviation(head: str) -> bool:
    match = _LAST_WORD.search(head)
    if match is None:
        return bool(re.fullmatch(r"\s*\d+\.", head))
    word = match.group(1).lower()
    return word in ABBREVIATIONS or (len(word) == 1 and word != "i")


def pause_after(clause: str) -> int:
    """Milliseconds of silence that suit the end of `clause`."""
    last = clause.rstrip().rstrip(CLOSERS)[-1:]
    if last and last in SENTENCE_ENDS + WIDE_SENTENCE_ENDS:
        return 240
    if last and last in COMMAS + WIDE_COMMAS:
        return 110
    return 30


def speakable(text: str) -> str:
    """The text without mark-up signs; character positions stay the same."""
    return text.translate(_SILENT)


def is_silent(text: str) -> bool:
    """Whether there is nothing to pronounce in `text`."""
    return not any(char.isalnum() for char in text)
