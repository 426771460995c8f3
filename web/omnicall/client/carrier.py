"""What carries a call: events both ways, and sound both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from omnicall.client.address import Address
from omnicall.client.sound import Pcm, Unsaid

Event = dict[str, Any]


def finds_turns(session: Event) -> bool:
    """Whether the server finds where speech begins and ends; otherwise the client says so."""
    found = session.get("audio", {}).get("input", {})
    return bool(found.get("turn_detection", True))


class Callbacks(NamedTuple):
    """Whom a carrier tells what comes; neither may block."""

    event: Callable[[Event], None]
    sound: Callable[[Pcm], None]


class Carrier(Protocol):
    """One connection to a server, by whatever way."""

    @property
    def call_id(self) -> str:
        """The server's id of the call, empty where it gave none yet."""

    @property
    def token(self) -> str:
        """Resumes the session over another carrier; empty if nothing does."""

    @property
    def tail_s(self) -> float:
        """How long an event has to wait so as not to overtake the sound before it."""

    @property
    def audio_settings(self) -> dict[str, Any]:
        """What `session.audio` has to say so that this one understands the sound."""

    async def open(self, session: Event, token: str = "") -> bool:
        """Connect; whether the settings went with it. `token`: of a session that goes on.

        Raises `Declined`, `NoConnection`.
        """

    async def run(self) -> None:
        """Carry until the end, which is raised: `CallOver`."""

    async def send(self, event: Event) -> None:
        """Send an event. Raises `CallOver`."""

    async def add_item(self, item: Event) -> None:
        """Send an item of any size. Raises `CallOver`, `Declined`, `NoConnection`."""

    async def interrupt(self) -> None:
        """Stop the answer, and what of it is on its way to the ear."""

    async def close(self) -> None:
        """Hang up."""

    async def drop(self) -> None:
        """Free a connection that is lost; the session may go on over another one."""


class MakeCarrier(Protocol):
    """Makes the carrier of each of a call's connections; it says what the voice holds."""

    def __call__(self, address: Address, voice: Unsaid, listener: Callbacks) -> Carrier: ...


def opening(settings: Event, carrier: Carrier, tools: list[Event]) -> Event:
    """The session to ask for: `settings`, with what the carrier needs where they say nothing."""
    audio = dict(settings.get("audio", {}))
    for side, needed in carrier.audio_settings.items():
        audio[side] = needed | audio.get(side, {})
    session = {"type": "realtime", **settings}
    if tools:
        session["tools"] = tools
    if audio:
        session["audio"] = audio
    return session
