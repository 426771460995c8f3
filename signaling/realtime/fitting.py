"""Events made to fit what a client takes in one message (`a=max-message-size`). Media worker.

Stacks drop a larger message without a word (RFC 8841 section 6.1). What the protocol can say in
pieces is split, what repeats something that the client knows is left out, long texts are cut, and
each time the client is told; what remains too large becomes an `error`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from signaling.realtime.extension_events import SessionWarningEvent
from signaling.realtime.server_events import encode, error

_ECHOES = ("tools", "instructions", "tool_choice", "engine", "truncation", "tracing", "include")
"""Members of a session that its client has given, the largest first; with their empty values."""
_EMPTY: dict[str, Any] = {"tools": [], "instructions": "", "tool_choice": "auto", "engine": {}}
_TEXTS = frozenset({"text", "transcript", "delta", "arguments", "output", "message"})
CUT = "…"


def fitted(event: Any, limit: int) -> Iterator[str]:
    """Return the messages that say `event`, one of `signaling.realtime.server_events`.

    Each has at most `limit` bytes; 0: any size. Empty if not even an error fits.
    """
    text = encode(event)
    size = len(text.encode())
    if not limit or size <= limit:
        yield text
        return
    for message in _made_to_fit(event, size, limit):
        yield from [message] if len(message.encode()) <= limit else ()


def _made_to_fit(event: Any, size: int, limit: int) -> Iterator[str]:
    if isinstance(getattr(event, "delta", None), str):
        yield from _pieces(event, size, limit)
        return
    value = msgspec.json.decode(encode(event))
    name, ident = value["type"], value["event_id"]
    session = value.get("session")
    shortened = _without_echo(value, session, limit) if session else _with_cut_texts(value, limit)
    told = f"{name} ({ident}) has {size} bytes, this client takes {limit} in one message: "
    if not _fits(value, limit):
        yield encode(error(f"{told}it is not sent.", code="event_too_large", type="server_error"))
        return
    yield msgspec.json.encode(value).decode()
    yield encode(SessionWarningEvent(code="event_shortened", message=f"{told}{shortened}."))


def _pieces(event: Any, size: int, limit: int) -> Iterator[str]:
    """Split a delta into several: nothing of it is lost."""
    half = len(event.delta) // 2
    if size <= limit or not half:
        yield encode(event)
        return
    for delta in (event.delta[:half], event.delta[half:]):
        # A new event has an id of its own.
        fields = msgspec.structs.asdict(event) | {"delta": delta}
        del fields["event_id"]
        piece = type(event)(**fields)
        yield from _pieces(piece, len(encode(piece).encode()), limit)


def _without_echo(value: dict[str, Any], session: dict[str, Any], limit: int) -> str:
    left_out = []
    for member in _ECHOES:
        if _fits(value, limit):
            break
        if session.get(member):
            session[member] = _EMPTY.get(member)
            left_out.append(f"session.{member}")
    return f"{', '.join(left_out)} in force, but left out of it"


def _with_cut_texts(value: dict[str, Any], limit: int) -> str:
    """Halve the longest texts until all fit."""
    texts = list(_texts(value))
    while texts and not _fits(value, limit):
        owner, member = max(texts, key=lambda at: len(at[0][at[1]]))
        text = owner[member]
        if len(text) < 2 * len(CUT):
            break
        owner[member] = text[: len(text) // 2].removesuffix(CUT) + CUT
    return "its texts are cut"


def _texts(value: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every text that may be cut, as its object and the member's name."""
    if isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str):
                if name in _TEXTS:
                    yield value, name
            else:
                yield from _texts(inner)


def _fits(value: dict[str, Any], limit: int) -> bool:
    return len(msgspec.json.encode(value)) <= limit
