"""Data-channel events in both directions: the one import for who speaks on the channel."""

from signaling import server_events
from signaling.client_events import ClientEvent, parse_client_event
from signaling.errors import ProtocolError
from signaling.server_events import encode, new_id
from signaling.settings import SessionSettings

__all__ = [
    "ClientEvent",
    "ProtocolError",
    "SessionSettings",
    "encode",
    "error_event",
    "new_id",
    "parse_client_event",
    "server_events",
]


def error_event(error: ProtocolError) -> server_events.Error:
    """Return the `error` event that tells a client about its mistake."""
    return server_events.error(
        error.message,
        code=error.code,
        param=error.param,
        event_id=error.event_id,
        type=error.type,
    )
