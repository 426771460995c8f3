"""Text from outside, made fit to be encoded, spoken and shown. Imports nothing of ours.

JavaScript and language models cut characters beyond U+FFFF in two: what arrives is half a
surrogate pair, which no encoder takes.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

import msgspec

REPLACEMENT = "\ufffd"

# Walks from escape to escape, so that an escaped backslash before a "u" begins none. The first
# group is a whole pair, the second half of one.
_ESCAPE = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|\\.",
    re.DOTALL,
)


def well_formed(text: str) -> str:
    """`text` with every lone surrogate replaced by U+FFFD; two halves in a row become one."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class DeltaJoiner:
    """Text that comes in pieces: a character cut between two of them is joined again."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-16-le")("replace")

    def push(self, delta: str) -> str:
        """What is now known of the text: half a pair at the end waits for the next piece."""
        return self._decoder.decode(delta.encode("utf-16-le", "surrogatepass"))

    def flush(self) -> str:
        """What is left at the end: half a pair is U+FFFD."""
        return self._decoder.decode(b"", final=True)


def decode_json(data: bytes | str) -> Any:
    """The value of a JSON text; raises `msgspec.DecodeError` or `RecursionError`.

    Halves of surrogate pairs, bytes that are no UTF-8 and NUL characters as such, which JSON does
    not allow within strings, become U+FFFD; an escaped NUL is a character like any other.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError):
        return msgspec.json.decode(_mended(data))


def _mended(data: bytes | str) -> str:
    text = data.decode(errors="replace") if isinstance(data, bytes) else well_formed(data)
    text = text.replace("\0", REPLACEMENT)
    return _ESCAPE.sub(lambda m: REPLACEMENT if m[2] else m[0], text)
