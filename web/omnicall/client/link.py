"""What carries a call: events both ways, and sound both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from omnicall.client.sound import Pcm

Event = dict[str, Any]


class Listener(NamedTuple):
    """Whom a link tells what comes; neither may block."""

    event: Callable[[Event], None]
    sound: Callable[[Pcm], None]


class Link(Protocol):
    """One connection to a server, by whatever way."""

    @property
    def call_id(self) -> str:
        """The server's id of the call, empty where it gave none yet."""

    @property
    def audio_settings(self) -> dict[str, Any]:
        """What `session.audio` has to say so that this link understands the sound."""

    async def open(self, session: Event) -> bool:
        """Connect; whether the settings went with it. Raises `CallRefused`, `NoConnection`."""

    async def run(self) -> None:
        """Carry until the end, which is raised: `CallEnded`."""

    async def send(self, event: Event) -> None:
        """Send an event. Raises `CallEnded`."""

    async def add_item(self, item: Event) -> None:
        """Send an item of any size. Raises `CallEnded`, `CallRefused`, `NoConnection`."""

    async def interrupt(self) -> None:
        """Stop what is on its way to the ear."""

    async def close(self) -> None:
        """Hang up."""
