"""JSON from outside, made fit to be encoded, spoken and shown. Any process.

JavaScript cuts characters beyond U+FFFF in two: what arrives is half a surrogate pair, which no
encoder takes.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec

from signaling.errors import ProtocolError

REPLACEMENT = "\ufffd"
MAX_DEPTH = 64
"""Of nested arrays and objects: what we make of them nests a little deeper, within the stack."""
MAX_NAMES = 32
MAX_NAME_CHARS = 64
MAX_EVENT_ID_CHARS = 512

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


def decode_json(data: bytes | str) -> Any:
    """The value of a JSON text; raises ValueError with the reason.

    Halves of surrogate pairs, bytes that are no UTF-8 and NUL characters as such, which JSON does
    not allow within strings, become U+FFFD; an escaped NUL is a character like any other. A byte
    order mark at the beginning is skipped. Nested deeper than MAX_DEPTH is refused.
    """
    try:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError):
            value = msgspec.json.decode(_mended(data))
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _is_deep(value):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def plain_names(names: Iterable[str]) -> tuple[str, ...]:
    """The first `MAX_NAMES` names from outside, fit for a header and a message, each once."""
    cut = (name[:MAX_NAME_CHARS] for name in islice(names, MAX_NAMES))
    plain = ("".join(c for c in n if c.isascii() and (c.isalnum() or c in "_.-[]")) for n in cut)
    return tuple(dict.fromkeys(name for name in plain if name))


def read_object(text: str, noun: str = "event") -> dict[str, Any]:
    """Return the object that a message is; raise `ProtocolError`, which calls it by `noun`."""
    try:
        raw = decode_json(text)
    except ValueError as error:
        raise ProtocolError(f"The {noun} is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise ProtocolError(f"Each {noun} is a JSON object.", code="invalid_event")
    return raw


@contextmanager
def naming_event(raw: dict[str, Any]) -> Iterator[None]:
    """Give a `ProtocolError` that is raised within the event_id that the client gave, if any."""
    try:
        yield
    except ProtocolError as error:
        given = raw.get("event_id")
        is_usable = isinstance(given, str) and len(given) <= MAX_EVENT_ID_CHARS
        error.event_id = given if is_usable else None
        raise


def _mended(data: bytes | str) -> str:
    text = data.decode(errors="replace") if isinstance(data, bytes) else well_formed(data)
    text = text.removeprefix("\ufeff").replace("\0", REPLACEMENT)
    return _ESCAPE.sub(lambda m: REPLACEMENT if m[2] else m[0], text)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
