"""The connections of one Live session, and the commands of theirs that are answered later. Media
worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import UNSET

from signaling.errors import ProtocolError
from signaling.live import server_events as wire
from signaling.live.connection import LiveConnection
from signaling.session.ids import new_id


class Command(NamedTuple):
    """Who gave a command, and its name there."""

    connection: LiveConnection
    event_id: str | None


class LiveConnections:
    """Owns who is told of a session, and which of them waits for what."""

    def __init__(self) -> None:
        self._connections: list[LiveConnection] = []
        self._waiting: dict[str, Command] = {}
        self._informed: set[str] = set()

    def __iter__(self) -> Iterator[LiveConnection]:
        return iter(tuple(self._connections))

    def add(self, connection: LiveConnection) -> None:
        self._connections.append(connection)

    def remove(self, connection: LiveConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    # ------------------------------------------------------------------ telling

    def tell(self, event: wire.LiveServerEvent) -> None:
        for connection in self:
            connection.show(event)

    def answer(self, kind: type[Any], command: Command | None, **fields: Any) -> None:
        """Tell everybody; who gave the command is told its own name of it."""
        for connection in self:
            asked_as = None
            if command is not None and connection is command.connection:
                asked_as = command.event_id
            connection.show(kind(**fields, client_event_id=UNSET if asked_as is None else asked_as))

    def inform(self, code: str, message: str, *, once: bool = False) -> None:
        """Say what no event of Live says; `once`: for each code."""
        if once and code in self._informed:
            return
        self._informed.add(code)
        self.tell(wire.Info(code=code, message=message))

    @property
    def want_audio(self) -> bool:
        return any(connection.wants_audio for connection in self._connections)

    def reflect(self, event: wire.ReflectedInput | wire.OutputAudio) -> None:
        """Send sound to those who want it and keep up."""
        for connection in self:
            if connection.wants_audio and connection.has_room():
                connection.show(event)

    # ------------------------------------------------------------------ what is answered later

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def expect(self, command: Command) -> str:
        """Note a command; the name by which `take` finds it."""
        token = new_id("command")
        self._waiting[token] = command
        return token

    def take(self, token: str | None) -> Command | None:
        """Return the command of this name, once."""
        return self._waiting.pop(token or "", None)

    def give_up(self, error: ProtocolError) -> None:
        """Tell everybody who waits that nothing comes any more."""
        for connection, event_id in self._waiting.values():
            connection.show(wire.live_error(error, event_id))
        self._waiting.clear()
