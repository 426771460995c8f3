"""Why a Live session ends, in Live's words. Media worker."""

from typing import NamedTuple

from signaling.live.server_events import ClosedReason


class Ending(NamedTuple):
    reason: ClosedReason
    code: str = ""
    """Of the `error` before `session.closed`: some clients take that alone for silence."""


_ENDINGS = {
    "hangup": Ending("close_requested"),
    "goodbye": Ending("close_requested"),
    "closed": Ending("remote_hangup"),
    "vanished": Ending("connection_lost"),
    "failed": Ending("connection_lost"),
    "max_duration": Ending("expired", "session_expired"),
    "context_limit": Ending("expired", "session_expired"),
    "no_input": Ending("expired", "session_idle"),
    "engine_full": Ending("connection_lost", "no_free_slot"),
    "engine_gone": Ending("connection_lost", "engine_unavailable"),
    "engine_failed": Ending("connection_lost", "engine_unavailable"),
    "server_shutdown": Ending("connection_lost", "server_shutdown"),
}

CLOSE_CODES = {"no_free_slot": 1013, "server_shutdown": 1012, "engine_unavailable": 1011}
"""Of the WebSocket; Python's client comes back for these if it is told to reconnect."""
REFUSED = 1008
DONE = 1000


def ending(reason: str) -> Ending:
    """Return Live's name for the reason that a session ended for."""
    return _ENDINGS.get(reason) or Ending("connection_lost", reason)
