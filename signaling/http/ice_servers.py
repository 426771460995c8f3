"""STUN and TURN servers as they are handed to clients, in JSON and in Link headers. Front.

Passwords that expire are those of coturn's REST scheme (its option use-auth-secret): the user name
is the time of expiry, the password an HMAC of it that the TURN server can make as well.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

import msgspec


class IceServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of RTCConfiguration.iceServers."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class IceServers:
    """Knows the servers, and makes credentials for each client that gets them.

    With a `secret` they last `lifetime_s`; else the fixed `username` and `password` are told.
    """

    def __init__(
        self,
        stun: tuple[str, ...] = (),
        turn: tuple[str, ...] = (),
        *,
        username: str = "",
        password: str = "",
        secret: str = "",
        lifetime_s: int = 3600,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._stun = stun
        self._turn = turn
        self._fixed = (username, password)
        self._secret = secret
        self._lifetime_s = lifetime_s
        self._wall_clock = wall_clock

    def issue(self, *, with_turn: bool = True) -> list[IceServer]:
        """The servers for one client. Without a key nobody gets more than STUN."""
        found = [IceServer(self._stun)] if self._stun else []
        if with_turn and self._turn:
            found.append(IceServer(self._turn, *self._credentials()))
        return found

    def _credentials(self) -> tuple[str, str]:
        if not self._secret:
            return self._fixed
        return time_limited(self._secret, int(self._wall_clock()) + self._lifetime_s)


def time_limited(secret: str, expires_at: int) -> tuple[str, str]:
    """User name and password that a TURN server with this secret takes until then (Unix time)."""
    username = f"{expires_at}:{secrets.token_hex(4)}"
    digest = hmac.digest(secret.encode(), username.encode(), hashlib.sha1)
    return username, base64.b64encode(digest).decode()


def links(servers: list[IceServer]) -> list[str]:
    """Values of Link headers (RFC 9725 section 4.6), one for each URL."""
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
