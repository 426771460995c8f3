"""STUN and TURN servers: URLs, passwords, and which are left out for a while. Any process.

URLs are those of RFC 7064 and 7065; passwords that expire those of coturn's REST scheme (its option
use-auth-secret): the user name begins with the time of expiry, the password is an HMAC of it that
the TURN server can make as well.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable

import msgspec

REST_S = 30.0
MAX_REST_S = 600.0
"""A server that did not answer is left out for so long; twice as long each further time."""

_URL = re.compile(
    r"(stuns?|turns?):(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(?:\?transport=(udp|tcp))?"
)


class ServerUrl(msgspec.Struct, frozen=True):
    """A STUN or TURN server's address."""

    text: str
    host: str
    port: int
    is_turn: bool
    is_tls: bool
    is_tcp: bool


def parse_url(text: str) -> ServerUrl:
    """Read a URL. Raises ValueError with what is expected."""
    match = _URL.fullmatch(text)
    port = int(match[3] or 0) if match else 0
    if match is None or port > 65535 or (match[3] and port == 0):
        raise ValueError("expected stun:HOST:PORT or turn:HOST:PORT?transport=udp (stuns:, turns:)")
    is_turn, is_tls = match[1].startswith("turn"), match[1].endswith("s")
    if match[4] and not is_turn:
        raise ValueError("a STUN server's URL has no ?transport")
    if is_tls and match[4] == "udp":
        raise ValueError("turns: goes by TCP")
    return ServerUrl(
        text=text,
        host=match[2].strip("[]"),
        port=port or (5349 if is_tls else 3478),
        is_turn=is_turn,
        is_tls=is_tls,
        is_tcp=is_tls or match[4] == "tcp",
    )


def time_limited(secret: str, expires_at: int) -> tuple[str, str]:
    """User name and password that a TURN server with this secret takes until then (Unix time)."""
    username = f"{expires_at}:{secrets.token_hex(4)}"
    digest = hmac.digest(secret.encode(), username.encode(), hashlib.sha1)
    return username, base64.b64encode(digest).decode()


class TurnLogin(msgspec.Struct, frozen=True):
    """How one logs in at the TURN servers: with a secret, anew each time, else as it is written."""

    username: str = ""
    password: str = ""
    secret: str = ""
    lifetime_s: int = 7200

    def credentials(self, now: float) -> tuple[str, str]:
        """User name and password; `now` in Unix time."""
        if self.secret:
            return time_limited(self.secret, int(now) + self.lifetime_s)
        return self.username, self.password


class Resting:
    """The servers that did not answer lately, and until when nobody waits for them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, tuple[float, float]] = {}

    def rests(self, url: ServerUrl) -> bool:
        """Return whether the server is left out now."""
        return self._clock() < self._until.get(url.text, (0.0, 0.0))[0]

    def failed(self, url: ServerUrl) -> None:
        """Note that it did not answer, or refused."""
        rest_s = min(2 * self._until.get(url.text, (0.0, REST_S / 2))[1], MAX_REST_S)
        self._until[url.text] = (self._clock() + rest_s, rest_s)

    def answered(self, url: ServerUrl) -> None:
        """Note that it is well."""
        self._until.pop(url.text, None)
