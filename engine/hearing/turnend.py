"""How sure it is that somebody has finished: by the melody of the voice, and by the words."""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np

Phrase = Literal["", "awaited", "closed", "whole", "open"]
"""What the words so far are: unknown, about to be known, such as may be all, something complete, or
a phrase that is to go on."""

FALL = 0.9
"""At the end of a statement the pitch is this share of the usual one, or less."""
LAST = 4
MIN_PITCHES = 8
KEPT = 150
CLEAR_SHARE = 0.8
"""Of the silence that ends an utterance where its end is clear,"""
UNKNOWN_SHARE = 1.5
"""where the voice has no pitch that could be followed,"""
CLOSED_SHARE = 2.0
"""or where the words may be all and the voice does not fall."""
OPEN_WORDS = frozenset(
    (
        "a an the and or but of to in on at by for from with about into than as if that which who "
        "what when where why how is are was were be been do does did can could will would shall "
        "should may might must my your his her its our their this these those some any me i you he "
        "she we they plus minus times divided multiplied because so then not very um uh"
    ).split()
)
"""Whoever stops behind one of these has more to say."""
NEVER_LAST = frozenset(
    "a an the and or but as if than my your our their plus minus times divided multiplied".split()
)
"""Those of them that end no question either, as `for` does in "What is it for?"."""


class TurnEnd:
    """Owns the pitches of an utterance and what is known of its words."""

    def __init__(self) -> None:
        self.phrase: Phrase = ""
        self._pitches: deque[float] = deque(maxlen=KEPT)

    def add(self, pitch_hz: float | None) -> None:
        """Take the pitch of the next 20 ms of voice."""
        if pitch_hz is not None:
            self._pitches.append(pitch_hz)

    def patience(self, most: float) -> float:
        """By how much the silence is to be longer than asked for, `most` where more is to come."""
        # Nothing is answered before its words are known: to wait for them costs no time.
        if self.phrase in ("open", "awaited"):
            return most
        if not self.phrase and len(self._pitches) < MIN_PITCHES:
            return min(UNKNOWN_SHARE, most)
        if self._falls():
            return CLEAR_SHARE
        shares = {"whole": 1.0, "closed": min(CLOSED_SHARE, most)}
        return shares.get(self.phrase, most)

    def _falls(self) -> bool:
        if len(self._pitches) < MIN_PITCHES:
            return False
        pitches = np.array(self._pitches)
        return bool(np.median(pitches[-LAST:]) < FALL * np.median(pitches))


def phrase_of(text: str) -> Phrase:
    """What can be told of words of English by the last of them and the mark behind it."""
    words = text.lower().split()
    if not words:
        return ""
    last = words[-1].rstrip(".,?!…-")
    if last in (NEVER_LAST if words[-1].endswith(("?", "!")) else OPEN_WORDS):
        return "open"
    return "closed" if words[-1][-1] in ".?!" and not words[-1].endswith("..") else ""
