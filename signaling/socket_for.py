"""What goes with a WebSocket's socket to the process that speaks on it. Any process."""

from typing import Literal

import msgspec


class SocketFor(msgspec.Struct, frozen=True):
    """Whose socket it is. The handshake is not answered yet: `head` is the answer."""

    call_id: str
    head: bytes
    role: Literal["primary", "sideband"] = "primary"
    """A sideband joins a session that has a connection of its own."""
    resumes: bool = False
    """It takes the place of the session's own connection, which its client has lost."""
    door: str = "realtime"
    tells_extensions: bool = False
    wants_audio: bool = True
    """Of a connection that joins a Live session: both sides' sound."""
