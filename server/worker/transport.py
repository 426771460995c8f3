"""How a session reaches its client: a peer connection with tracks, or a WebSocket with sound."""

from __future__ import annotations

from typing import Any, Protocol


class Connection(Protocol):
    """A way to a session: its client's own, or one that joined it."""

    def served(self) -> None:
        """An engine serves the session."""

    async def close(self) -> None:
        """End the connection and free what it holds. Idempotent."""


class Transport(Connection, Protocol):
    """Carries events and sound of one session, to and from its client."""

    @property
    def is_connected(self) -> bool:
        """Whether the client is there: from then on the session needs an engine."""

    @property
    def is_reachable(self) -> bool:
        """Whether events may still arrive, also between the session's end and `close`."""

    async def tend(self) -> None:
        """Look after what needs it about once a second."""

    async def settled(self) -> None:
        """Wait a moment for a client that is still connecting, before it is told of a failure."""

    async def flushed(self) -> None:
        """Wait until the last words have left, for a moment."""

    async def stats(self) -> list[dict[str, Any]]:
        """Return webrtc-stats objects."""
