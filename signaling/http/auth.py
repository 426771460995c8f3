"""Authorisation: API keys, ephemeral secrets, roles, the guard of keyless loopback. Front."""

import hashlib
import hmac
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from signaling.errors import ProtocolError
from signaling.hosts import LOOPBACK_HOSTS
from signaling.http.httperrors import error_response
from signaling.http.proxies import neighbourhood
from signaling.ratelimit import KeyedBuckets
from signaling.settings import SessionSettings

logger = logging.getLogger(__name__)

Role = Literal["user", "admin"]
Clock = Callable[[], float]

SECRET_MIN_S = 10
SECRET_MAX_S = 7200
SECRET_DEFAULT_S = 600
MAX_SECRETS = 10_000
KEY_PROTOCOL = "openai-insecure-api-key."
"""A sub-protocol of WebSockets that brings a key, as OpenAI's clients in browsers send it."""


class ApiKey(msgspec.Struct, frozen=True):
    """A configured key; `id` may be logged, `secret` never."""

    id: str
    secret: str
    role: Role = "user"


class Principal(msgspec.Struct, frozen=True):
    """Who a request is from. `session` is what an ephemeral secret carries."""

    role: Role
    key_id: str | None = None
    session: SessionSettings | None = None
    secret_id: str | None = None
    """Of an ephemeral secret: tells it from others and says nothing of its value."""

    @property
    def is_ephemeral(self) -> bool:
        return self.secret_id is not None

    def callers(self, remote: str | None) -> tuple[str, ...]:
        """Whom its calls count for: the address they come from, and the secret if it is one.

        Not a configured key: that may be a whole service's.
        """
        address = f"address:{neighbourhood(remote)}"
        return (address,) if self.secret_id is None else (address, f"secret:{self.secret_id}")


class Limits(msgspec.Struct, frozen=True):
    """The rate of new calls, per key and per remote address."""

    calls_per_minute: float = 30.0
    calls_burst: float = 20.0


class IssuedSecret(msgspec.Struct, frozen=True):
    """What is kept of an ephemeral secret, beside its hash."""

    expires_at: float
    """By the monotonic clock, which is the machine's."""
    principal: Principal


class Memory(Protocol):
    """What outlives this process, though not the server."""

    def remember(self, name: str, data: bytes) -> None: ...

    def forget(self, *names: str) -> None: ...

    def memories(self, prefix: str) -> dict[str, bytes]: ...


class EphemeralSecrets:
    """Secrets of OpenAI's client_secrets: `ek_…`, reusable until they expire. Memory only.

    Only their hashes are kept. At most `capacity`; beyond it the oldest is forgotten. They expire
    by the monotonic `clock`: setting the system's time back revives none.
    """

    PREFIX = "secret "

    def __init__(
        self,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        capacity: int = MAX_SECRETS,
        memory: Memory | None = None,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._capacity = capacity
        self._memory = memory
        self._entries: OrderedDict[bytes, IssuedSecret] = OrderedDict()
        for name, data in ({} if memory is None else memory.memories(self.PREFIX)).items():
            digest = bytes.fromhex(name.removeprefix(self.PREFIX))
            self._entries[digest] = msgspec.msgpack.decode(data, type=IssuedSecret)

    def __len__(self) -> int:
        return len(self._entries)

    def issue(
        self, lifetime_s: int, session: SessionSettings, key_id: str | None
    ) -> tuple[str, int]:
        """Return a new secret and when it expires (Unix seconds)."""
        now = self._clock()
        expired = [key for key, issued in self._entries.items() if issued.expires_at <= now]
        self._drop(*expired)
        value = "ek_" + secrets.token_urlsafe(32)
        principal = Principal("user", key_id, session, secret_id=secrets.token_hex(8))
        digest = _digest(value)
        issued = self._entries[digest] = IssuedSecret(now + lifetime_s, principal)
        if self._memory is not None:
            self._memory.remember(self.PREFIX + digest.hex(), msgspec.msgpack.encode(issued))
        if len(self._entries) > self._capacity:
            self._drop(next(iter(self._entries)))
        return value, int(self._wall_clock()) + lifetime_s

    def find(self, value: str) -> Principal | None:
        """Return whose secret this is, or None if unknown or expired."""
        issued = self._entries.get(_digest(value))
        if issued is None or issued.expires_at <= self._clock():
            return None
        return issued.principal

    def _drop(self, *digests: bytes) -> None:
        for digest in digests:
            del self._entries[digest]
        if self._memory is not None:
            self._memory.forget(*(self.PREFIX + digest.hex() for digest in digests))


class Authenticator:
    """Resolves a request to a Principal.

    `is_keyless` is for a server that listens on loopback only: everyone is admin, but only under
    a loopback Host (a rebound DNS name would show another) and from a loopback or allowed Origin
    (any web page can post to localhost).
    """

    def __init__(
        self,
        keys: tuple[ApiKey, ...] = (),
        *,
        is_keyless: bool = False,
        allowed_hosts: tuple[str, ...] = (),
        allowed_origins: tuple[str, ...] = (),
        limits: Limits | None = None,
        memory: Memory | None = None,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        """`memory`: where another process finds the ephemeral secrets that were issued."""
        if not keys and not is_keyless:
            raise ValueError("at least one API key is needed unless the server is keyless")
        limits = limits or Limits()
        self.is_keyless = is_keyless
        self.allowed_origins = allowed_origins
        self.secrets = EphemeralSecrets(clock, wall_clock, memory=memory)
        self._keys = tuple((_digest(key.secret), key) for key in keys)
        self._allowed_hosts = (*LOOPBACK_HOSTS, *allowed_hosts)
        self._clock = clock
        self._calls = KeyedBuckets(limits.calls_per_minute / 60, limits.calls_burst)

    def identify(self, request: web.Request) -> Principal | None:
        """Return who sent the request, None for a stranger. Raises ProtocolError 401, 403."""
        if self.is_keyless:
            self._guard_loopback(request)
        value = _bearer(request) or _protocol_key(request) or _page_key(request)
        if value is None:
            return Principal(role="admin") if self.is_keyless else None
        if value.startswith("ek_"):
            principal = self.secrets.find(value)
        else:
            principal = self._find_key(value)
        if principal is None and self.is_keyless:
            # SDKs cannot be used without some key.
            return Principal(role="admin")
        if principal is None:
            raise ProtocolError(
                "The API key or secret is unknown or has expired.",
                code="invalid_api_key",
                status=401,
            )
        return principal

    def admit_call(self, request: web.Request, principal: Principal) -> None:
        """Count one POST of a call. Raises RateLimited (429)."""
        now = self._clock()
        keys = list(principal.callers(request.remote))
        if principal.key_id is not None:
            keys.append(f"key:{principal.key_id}")
        wait_s = max(self._calls.take(key, now) for key in keys)
        if wait_s > 0:
            raise RateLimited(wait_s)

    def is_allowed_origin(self, request: web.Request, origin: str) -> bool:
        """Return whether pages of `origin` may call: same origin, loopback, or configured."""
        if origin in self.allowed_origins or "*" in self.allowed_origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https"):
            return False
        return parts.netloc == request.host or parts.hostname in LOOPBACK_HOSTS

    def _find_key(self, value: str) -> Principal | None:
        digest = _digest(value)
        found = None
        for known, key in self._keys:
            # No early exit: the time says nothing about which key was near.
            if hmac.compare_digest(known, digest):
                found = Principal(role=key.role, key_id=key.id)
        return found

    def _guard_loopback(self, request: web.Request) -> None:
        host = _hostname(request.host)
        if host not in self._allowed_hosts:
            raise ProtocolError(
                f"This server answers under localhost only, not under {host[:80]!r}.",
                code="forbidden_host",
                status=403,
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and not self.is_allowed_origin(request, origin):
            raise ProtocolError(
                f"Pages of {origin[:80]!r} may not use this server.",
                code="forbidden_origin",
                status=403,
            )


class RateLimited(ProtocolError):
    """Too many calls, or whatever it is: 429 with Retry-After."""

    def __init__(self, retry_after_s: float, what: str = "calls") -> None:
        super().__init__(
            f"Too many {what}; try again in {retry_after_s:.0f} s.",
            code="rate_limit_exceeded",
            status=429,
            type="rate_limit_error",
        )
        self.retry_after_s = retry_after_s


PRINCIPAL = web.RequestKey("principal", Principal)
_AUTH = web.AppKey("auth", Authenticator)


def install(app: web.Application, auth: Authenticator) -> None:
    """Identify every request of `app` before its handler; handlers call require()."""
    app[_AUTH] = auth
    app.middlewares.append(_middleware)


def require(request: web.Request, role: Role = "user") -> Principal:
    """Return who sent the request. Raises ProtocolError 401 without key, 403 below `role`.

    An ephemeral secret is in browsers: it places calls and does nothing else, so "admin" is never
    granted to it.
    """
    principal: Principal | None = request.get(PRINCIPAL)
    if principal is None:
        raise ProtocolError(
            "An API key is needed: Authorization: Bearer <key>.",
            code="missing_api_key",
            status=401,
        )
    if role == "admin" and principal.role != "admin":
        raise ProtocolError(
            "This key may place calls but not administer.", code="forbidden", status=403
        )
    return principal


def require_key(request: web.Request) -> Principal:
    """Return who sent the request. Raises ProtocolError 403 for ephemeral secrets, too."""
    principal = require(request)
    if principal.is_ephemeral:
        raise ProtocolError(
            "A client secret places calls and does nothing else.", code="forbidden", status=403
        )
    return principal


@web.middleware
async def _middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        if request.method != hdrs.METH_OPTIONS:
            principal = request.config_dict[_AUTH].identify(request)
            if principal is not None:
                request[PRINCIPAL] = principal
        return await handler(request)
    except ProtocolError as error:
        return error_response(error)


def _bearer(request: web.Request) -> str | None:
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" and value.strip() else None


def offered_protocols(request: web.Request) -> list[str]:
    """The sub-protocols that a WebSocket client offers."""
    offered = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, []))
    return [name.strip() for name in offered.split(",") if name.strip()]


def _protocol_key(request: web.Request) -> str | None:
    # A browser can give a WebSocket no other header.
    names = (name for name in offered_protocols(request) if name.startswith(KEY_PROTOCOL))
    return next((name.removeprefix(KEY_PROTOCOL) for name in names), None) or None


def _page_key(request: web.Request) -> str | None:
    # Only for opening a page by its printed URL; the page moves the key to its sessionStorage.
    is_page = request.method == "GET" and "text/html" in request.headers.get(hdrs.ACCEPT, "")
    return request.query.get("key") or None if is_page else None


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
