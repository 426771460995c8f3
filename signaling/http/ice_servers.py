"""STUN and TURN servers as they are handed to clients, in JSON and in Link headers. Front."""

import time
from collections.abc import Callable

import msgspec

from signaling.ice_servers import TurnLogin


class IceServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of RTCConfiguration.iceServers."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class IceServers:
    """Knows the servers, and makes credentials for each client that gets them."""

    def __init__(
        self,
        stun: tuple[str, ...] = (),
        turn: tuple[str, ...] = (),
        login: TurnLogin | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._stun = stun
        self._turn = turn if login is not None else ()
        self._login = login or TurnLogin()
        self._wall_clock = wall_clock

    def issue(self, *, with_turn: bool = True) -> list[IceServer]:
        """The servers for one client; without TURN for who has no key."""
        found = [IceServer(self._stun)] if self._stun else []
        if with_turn and self._turn:
            found.append(IceServer(self._turn, *self._login.credentials(self._wall_clock())))
        return found


def links(servers: list[IceServer]) -> list[str]:
    """Values of Link headers as RFC 9725 has them, one for each URL."""
    found = []
    for server in servers:
        credentials = ""
        if server.username is not None:
            credentials = (
                f"; username={_quoted(server.username)}; "
                f'credential={_quoted(server.credential or "")}; credential-type="password"'
            )
        found += [f'<{url}>; rel="ice-server"{credentials}' for url in server.urls]
    return found


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
