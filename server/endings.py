"""Why calls end, in words for their callers, and which ended lately."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from signaling.errors import ProtocolError

KEPT_S = 300.0
MAX_KEPT = 2_000
REASONS = {
    "hangup": "The call was hung up.",
    "server_shutdown": "The server is shutting down.",
    "engine_gone": "The engine stopped working; call again.",
    "engine_full": "All places are taken; call again.",
    "worker_gone": "The server lost this call; call again.",
    "max_duration": "The longest duration of a call is reached.",
    "idle": "Nothing was said for so long that the call was ended.",
    "goodbye": "Goodbye.",
    "context_limit": "The model cannot remember a longer conversation; call again.",
    "media_failed": "The sound of this call failed; call again.",
    "engine_failed": "The engine failed in this call; call again.",
    "internal_error": "Something in the server failed; call again.",
    "closed": "The connection was closed.",
    "vanished": "The caller could not be reached any more.",
    "connect_timeout": "No connection was made in time.",
    "failed": "The connection failed.",
    "not_started": "The session was not started.",
    "bad_input": "This client sent what cannot be used.",
    "unsupported": "The engine cannot serve a session of this kind.",
    "no_input": "No sound came for so long that the session was ended.",
    "too_slow": "This client does not read what it is sent.",
    "malformed": "This client sent no WebSocket frames.",
    "flooded": "This client sent more control traffic than a call may.",
}
FAILURES = frozenset(
    {
        "engine_gone",
        "engine_full",
        "worker_gone",
        "engine_failed",
        "media_failed",
        "internal_error",
    }
)


def has_ended(reason: str) -> ProtocolError:
    """The error for what is asked of a call that has ended: 410 with the reason as its code."""
    return ProtocolError(
        REASONS.get(reason, "The call has ended."),
        code=reason,
        status=410,
        type="server_error" if reason in FAILURES else "invalid_request_error",
    )


class _Ended(NamedTuple):
    reason: str
    at: float


class Endings:
    """The calls that ended lately, for clients that ask about theirs.

    Who is still connected hears it from the media worker; when that is what died, this is the only
    way left. Bounded in time and number, the oldest goes first.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: dict[str, _Ended] = {}

    def add(self, call_id: str, reason: str) -> None:
        now = self._clock()
        self._ended[call_id] = _Ended(reason, now)
        for oldest in tuple(self._ended):
            if len(self._ended) <= MAX_KEPT and now - self._ended[oldest].at <= KEPT_S:
                break
            del self._ended[oldest]

    def why_closed(self, call_id: str) -> ProtocolError:
        """For a call that is not open: 410 with the reason as its code, or 404."""
        ended = self._ended.get(call_id)
        if ended is None or self._clock() - ended.at > KEPT_S:
            return ProtocolError("There is no such call.", code="call_not_found", status=404)
        return has_ended(ended.reason)
