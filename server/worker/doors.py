"""The protocols that are spoken over WebSockets, by the names that the front gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from media.inputpace import MAX_WAITING_S
from media.wireformat import WireFormat
from signaling.openbmb.door import OpenBmbDoor
from signaling.realtime.door import RealtimeDoor
from signaling.session.core import SessionCore, SoundPort, StreamDoor


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
    ) -> StreamDoor: ...


class SoundRules(NamedTuple):
    """How sound goes with the messages of a protocol."""

    input: WireFormat | None = None
    """None: as the session's settings say."""
    output: WireFormat | None = None
    max_waiting_s: float = MAX_WAITING_S
    """How much of what came too fast is kept."""
    max_ahead_s: float = math.inf
    """How much of an answer is sent before its time. Finite: what is not sent yet can be cut, and
    the client tells nothing of what it heard."""


class SpokenProtocol(NamedTuple):
    """A protocol: its door, and its sound."""

    make: MakeDoor
    sound: SoundRules = SoundRules()
    start_s: float = math.inf
    """A client that is served says within so long what its session begins with."""


PROTOCOLS: dict[str, SpokenProtocol] = {
    "realtime": SpokenProtocol(RealtimeDoor),
    "openbmb": SpokenProtocol(
        OpenBmbDoor,
        SoundRules(
            WireFormat(16_000, is_float=True),
            WireFormat(24_000, is_float=True),
            max_waiting_s=2,
            max_ahead_s=1,
        ),
        start_s=30,
    ),
}
