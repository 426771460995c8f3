"""One connection of a Live session: who may say what there, and what is told. Media worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from signaling.errors import ProtocolError
from signaling.live import client_events as c
from signaling.live import server_events as wire
from signaling.live.client_events import parse_live_event
from signaling.live.session_config import DataChannelRights
from signaling.session.events import SessionEvent

if TYPE_CHECKING:
    from signaling.live.door import LiveDoor

Kind = Literal["websocket", "data_channel", "sideband"]
"""The first two are the session's own, of which it has one."""

REFUSED_THERE: dict[Kind, tuple[type[c.LiveClientEvent], ...]] = {
    "websocket": (),
    "data_channel": (c.InputAppend,),
    "sideband": (c.SessionStart, c.InputAppend),
}


class LiveConnection:
    """Nothing a client sends raises out of here. `send` gets each event as JSON text."""

    def __init__(
        self,
        door: LiveDoor,
        send: Callable[[str], object],
        kind: Kind,
        *,
        rights: DataChannelRights | None = None,
        is_open: Callable[[], bool] = lambda: True,
        has_room: Callable[[], bool] = lambda: True,
        wants_audio: bool = False,
    ) -> None:
        """`rights` bound a data channel, which may open later. `wants_audio`: both sides' sound is
        reflected here while there is room for it.
        """
        self.kind = kind
        self.has_room = has_room
        self._is_open = is_open
        self.wants_audio = wants_audio
        self._door = door
        self._send = send
        self._may_send, self._may_see = _allowed(rights)

    def receive(self, text: str) -> None:
        """Take one message; a bad one is answered with an `error` event."""
        try:
            event = parse_live_event(text)
        except ProtocolError as error:
            self.refuse(error)
            return
        try:
            self._check(event)
            self._door.handle(event, self)
        except ProtocolError as error:
            error.event_id = event.event_id
            self.refuse(error)

    def refuse(self, error: ProtocolError) -> None:
        """Tell this client alone what it did wrong."""
        self.show(wire.live_error(error))

    def tell(self, event: SessionEvent, asked_as: str | None = None) -> None:
        """Let this connection, which has just opened, know how things stand."""
        self._door.greet(event, self)

    def show(self, event: wire.LiveServerEvent) -> None:
        """Send one event, if this connection may see it."""
        is_seen = self._may_see is None or _selector(event) in self._may_see
        if is_seen and self._is_open():
            self._send(wire.encode(event))

    def _check(self, event: c.LiveClientEvent) -> None:
        if self._may_send is not None and event.type not in self._may_send:
            raise ProtocolError(
                f"type: this data channel may not send {event.type}.",
                code="event_not_allowed",
                param="type",
            )
        if isinstance(event, REFUSED_THERE[self.kind]):
            where = "the microphone track carries the sound"
            if self.kind == "sideband":
                where = "this is for the session's own connection"
            raise ProtocolError(
                f"type: {event.type} is not supported here: {where}.",
                code="unsupported_event",
                param="type",
            )

    def permissions(self) -> str | None:
        """Return the permissions of this connection in words, where they are restricted."""
        if self._may_send is None and self._may_see is None:
            return None
        sends = "all" if self._may_send is None else ", ".join(sorted(self._may_send)) or "none"
        seen = [name for name, _ in self._may_see or ()]
        sees = "all" if self._may_see is None else ", ".join(sorted(set(seen))) or "none"
        return f"This data channel may send: {sends}. It is told: {sees}."


def _allowed(
    rights: DataChannelRights | None,
) -> tuple[frozenset[str] | None, frozenset[tuple[str, str]] | None]:
    """Return the types that may be sent, and those that may be seen; None: all."""
    if rights is None:
        return None, None
    sends, sees = rights.allowed_client_events, rights.allowed_server_events
    return (
        frozenset(sends) if isinstance(sends, tuple) else None,
        frozenset((s.type, s.response_event or "") for s in sees)
        if isinstance(sees, tuple)
        else None,
    )


def _selector(event: wire.LiveServerEvent) -> tuple[str, str]:
    nested = event.event["type"] if isinstance(event, wire.BackendEvent) else ""
    return wire.event_type(event), nested
