"""Calls of functions that come in pieces, several at once, as language models stream them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

MAX_CALLS = 16
MAX_NAME_CHARS = 128
MAX_ID_CHARS = 128
MAX_ARGUMENTS_CHARS = 60_000


class CallPart(Struct, frozen=True):
    """What came of one call."""

    call_id: str
    name: str
    arguments: str
    """What of them is new."""
    last: bool = False


class _OpenCall:
    """A call whose arguments still come."""

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.waiting = ""
        """Arguments that came before the name."""
        self.num_chars = 0


class CallJoiner:
    """Owns the calls of one answer. `is_known` tells the ids that must not be used again."""

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self._is_known = is_known
        self._calls: dict[object, _OpenCall] = {}

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def push(self, deltas: object) -> Iterator[CallPart]:
        """Take the `tool_calls` of one delta; raises `ValueError` for what is no call."""
        if not isinstance(deltas, list):
            raise ValueError("tool calls that are no list")
        for place, delta in enumerate(deltas):
            if not isinstance(delta, dict):
                raise ValueError("a tool call that is no object")
            yield from self._take(delta, delta.get("index", place))

    def flush(self) -> Iterator[CallPart]:
        """End all calls; raises `ValueError` for one without a name."""
        for call in self._calls.values():
            if not call.name:
                raise ValueError("a tool call without a name")
            yield CallPart(call.call_id, call.name, "", last=True)

    def _take(self, delta: dict[str, Any], index: object) -> Iterator[CallPart]:
        if not isinstance(index, int) or len(self._calls) > MAX_CALLS:
            raise ValueError("more tool calls than one answer has, or one without a place")
        call = self._calls.setdefault(index, _OpenCall())
        function = delta.get("function") or {}
        if not isinstance(function, dict):
            raise ValueError("a function that is no object")
        name, arguments = function.get("name") or "", _as_text(function.get("arguments"))
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARS:
            raise ValueError("a function's name that is none")
        call.num_chars += len(arguments)
        if call.num_chars > MAX_ARGUMENTS_CHARS:
            raise ValueError("longer arguments than any call has")
        if not call.call_id:
            call.call_id = self._own(delta.get("id"))
        call.waiting += arguments
        call.name = call.name or name
        if call.name and (call.waiting or name):
            waiting, call.waiting = call.waiting, ""
            yield CallPart(call.call_id, call.name, waiting)

    def _own(self, given: object) -> str:
        """The endpoint's id, if it is one that stands for this call alone."""
        taken = {call.call_id for call in self._calls.values()}
        is_good = isinstance(given, str) and 0 < len(given) <= MAX_ID_CHARS
        if is_good and given not in taken and not self._is_known(str(given)):
            return str(given)
        # Nine letters and digits: some endpoints take no other ids.
        return secrets.token_hex(5)[:9]


def _as_text(arguments: object) -> str:
    if arguments is None:
        return ""
    if not isinstance(arguments, str):
        raise ValueError("arguments that are no text")
    return arguments
