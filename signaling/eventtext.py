"""A message of a client as a JSON object, before a protocol looks at it. Media worker."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from signaling.errors import ProtocolError
from signaling.texts import decode_json

MAX_EVENT_ID_CHARS = 512


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
