"""Words of a stretch of speech as the short pieces that Live tells them in. Any process.

Clients end a speaker's turn when 0.8 s pass between two pieces, or lie between their spans: told
by the second, as some models make them, each second would be a turn.
"""

import re
from collections import deque
from typing import NamedTuple

FRAGMENT_MS = 300
LONGEST_MS = 600
MAX_WAITING = 2_000
CHAR_MS = 65
"""Of speech, about; ideographs and syllables take three times as long."""

_WIDE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
_WORD = re.compile(rf"\s*(?:[{_WIDE}]|[^\s{_WIDE}]+)(?:\s+$)?")


class Fragment(NamedTuple):
    """Words and where they lie on the session's timeline."""

    text: str
    start_ms: int
    end_ms: int


def spoken_ms(text: str) -> int:
    """About how long it takes to say this."""
    return sum(CHAR_MS * (3 if char > "\u3000" else 1) for char in text)


def split(text: str, start_ms: int, end_ms: int) -> list[Fragment]:
    """Split words into pieces of about 300 ms, each with its own leading space.

    They cover the span without a gap. One that is empty is taken to last as long as the words do.
    """
    if not text.strip():
        return []
    if end_ms <= start_ms:
        end_ms = start_ms + spoken_ms(text)
    length_ms = end_ms - start_ms
    words = _parts(text, length_ms)
    count = max(1, min(len(words), -(-length_ms // FRAGMENT_MS)))
    total, passed, taken = sum(map(len, words)), 0, ""
    found: list[Fragment] = []
    at_ms = start_ms
    for index, word in enumerate(words):
        taken += word
        passed += len(word)
        is_last = index == len(words) - 1
        half_of_next = 0 if is_last else len(words[index + 1]) / 2
        if is_last or (passed + half_of_next) * count > total * (len(found) + 1):
            until_ms = end_ms if is_last else start_ms + length_ms * passed // total
            found.append(Fragment(taken, at_ms, until_ms))
            at_ms, taken = until_ms, ""
    return found


def _parts(text: str, length_ms: int) -> list[str]:
    """Yield the words; one that takes long, such as a number, in parts."""
    found = []
    for word in _WORD.findall(text):
        parts = -(-len(word) * length_ms // (len(text) * LONGEST_MS))
        size = max(1, -(-len(word) // max(1, parts)))
        found += [word[at : at + size] for at in range(0, len(word), size)]
    return found


class Captions:
    """The words of the answer that is being spoken, told as they are heard."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Fragment]] = deque(maxlen=MAX_WAITING)
        self._told_ms = 0

    def add(self, text: str, start_ms: int, end_ms: int, now: float) -> None:
        """Take words that begin to be heard `now`."""
        for piece in split(text, start_ms, end_ms):
            self._waiting.append((now + (piece.start_ms - start_ms) / 1000, piece))

    def due(self, now: float) -> list[Fragment]:
        """Return what has begun to be heard since the last call."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            found.append(self._next())
        return found

    def flush(self) -> list[Fragment]:
        """Return all the rest: the answer was played to its end."""
        return [self._next() for _ in range(len(self._waiting))]

    def drop(self) -> None:
        """Forget what was cut before it was heard."""
        self._waiting.clear()

    def _next(self) -> Fragment:
        _, (text, start_ms, end_ms) = self._waiting.popleft()
        # Spans of neighbours may overlap where an end was guessed.
        start_ms = max(start_ms, self._told_ms)
        self._told_ms = max(start_ms, end_ms)
        return Fragment(text, start_ms, self._told_ms)
