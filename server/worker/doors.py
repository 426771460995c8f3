"""The protocols that are spoken over WebSockets, by the names that the front gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from signaling.realtime.door import RealtimeDoor
from signaling.session.core import Door, SessionCore, SoundPort


class MakeDoor(Protocol):
    """Make the door of one connection; `port` is None where the sound has another way."""

    def __call__(
        self,
        core: SessionCore,
        send: Callable[[str], object],
        *,
        port: SoundPort | None,
        has_track: bool,
        tells_extensions: bool,
    ) -> Door: ...


DOORS: dict[str, MakeDoor] = {"realtime": RealtimeDoor}
