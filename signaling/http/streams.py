"""WebSockets of sessions: checked and answered for here, spoken by a media worker. Front.

RFC 6455 section 4.2. `GET /v1/realtime?model=` opens a session, `?call_id=` joins one; other
protocols of the same path are told by what the client asks for.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from aiohttp import hdrs, web
from msgspec.structs import replace

from signaling.errors import ProtocolError
from signaling.http import resuming
from signaling.http.auth import Authenticator, Principal, offered_protocols, require
from signaling.http.httperrors import json_error
from signaling.http.openbmb import PROTOCOL as OPENBMB_PROTOCOL
from signaling.http.openbmb import speaks_openbmb, wanted_of
from signaling.http.resources import add_resource
from signaling.http.takeover import take_over
from signaling.settings import SessionSettings
from signaling.socket_for import SocketFor

REALTIME_PATHS = ("/v1/realtime", "/realtime")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = "13"


class PlacedStream(NamedTuple):
    """A session whose WebSocket may be handed over."""

    call_id: str
    token: str = ""
    """As of `signaling.http.calls.PlacedCall`."""


class StreamService(Protocol):
    """Places sessions over WebSockets; implemented by the front."""

    async def place_stream(
        self,
        session: SessionSettings,
        *,
        remote: str,
        callers: tuple[str, ...],
        owner: str | None = None,
        door: str = "realtime",
        is_resumable: bool = False,
    ) -> PlacedStream:
        """Make ready for a session. Raises NoFreeSlot, ProtocolError, TimeoutError."""

    async def resume_stream(self, token: str) -> PlacedStream:
        """Make ready for another WebSocket of a session; raises as `CallService.resume`."""

    async def hang_up(self, call_id: str, reason: str) -> bool: ...

    def check_owner(self, call_id: str, principal: Principal) -> None:
        """Raise ProtocolError unless the call is there and this key may join it."""

    def hand_over(self, told: SocketFor, descriptor: int) -> bool:
        """Give a copy of a socket to who speaks on it; False if that is impossible."""


def add_routes(app: web.Application, service: StreamService, auth: Authenticator) -> None:
    """Add the Realtime WebSocket; signaling.auth.install must have been called on the same app."""
    realtime = StreamEndpoint(service, auth)
    openbmb = StreamEndpoint(service, auth, "openbmb", OPENBMB_PROTOCOL, wanted_of)

    async def open_session(request: web.Request) -> web.Response:
        """Open a session over a WebSocket, or join a call with one.

        OpenAI Realtime; the protocol of openbmb-realtime where it is asked for.
        """
        return await (openbmb if speaks_openbmb(request) else realtime).open(request)

    for path in REALTIME_PATHS:
        add_resource(app, path, auth, {hdrs.METH_GET: open_session})


def wanted_model(request: web.Request) -> dict[str, Any]:
    """The settings that the query names."""
    model, intent = request.query.get("model"), request.query.get("intent", "conversation")
    if intent not in ("conversation", "transcription"):
        raise ProtocolError(
            'intent: allowed: "conversation", "transcription".',
            code="unsupported_value",
            param="intent",
        )
    named = {"model": model[:256]} if model else {}
    return named | ({"type": intent} if intent == "transcription" else {})


class StreamEndpoint:
    """Opens or joins a session; `door` names the protocol that is spoken."""

    def __init__(
        self,
        service: StreamService,
        auth: Authenticator,
        door: str = "realtime",
        protocol: str = "realtime",
        wanted: Callable[[web.Request], dict[str, Any]] = wanted_model,
    ) -> None:
        """`protocol`: the sub-protocol that is chosen where it is offered. `wanted`: a partial
        session object; raises `ProtocolError`.
        """
        self._service = service
        self._auth = auth
        self._door = door
        self._protocol = protocol
        self._wanted = wanted

    async def open(self, request: web.Request) -> web.Response:
        """Open a session over a WebSocket."""
        # The media worker answers, once everything that can be refused here was not.
        call_id = request.query.get("call_id")
        if call_id is not None:
            return await self.join(request, call_id)
        if (refusal := _not_a_websocket(request)) is not None:
            return refusal
        if self._door != "realtime":
            resuming.refuse(request)
        wanted = resuming.asked(request)
        if wanted is not None and wanted != resuming.NEW:
            return await self._resume(request, wanted)
        principal = self._admit(request)
        session = (principal.session or SessionSettings()).merge(self._wanted(request))
        placed = await self._service.place_stream(
            session,
            remote=request.remote or "",
            callers=principal.callers(request.remote),
            owner=principal.key_id,
            door=self._door,
            is_resumable=wanted is not None,
        )
        try:
            return await self._hand_over(request, self._socket_for(request, placed))
        except BaseException:
            await self._service.hang_up(placed.call_id, "not_answered")
            raise

    async def _resume(self, request: web.Request, token: str) -> web.Response:
        """Go on with a session whose client has lost its WebSocket; its token is the key."""
        self._check_origin(request)
        placed = await self._service.resume_stream(token)
        told = self._socket_for(request, placed)
        return await self._hand_over(request, replace(told, resumes=True))

    async def join(self, request: web.Request, call_id: str) -> web.Response:
        """Join a running session."""
        if (refusal := _not_a_websocket(request)) is not None:
            return refusal
        self._service.check_owner(call_id, self._admit(request))
        told = replace(self._socket_for(request, PlacedStream(call_id)), role="sideband")
        return await self._hand_over(request, told)

    def _admit(self, request: web.Request) -> Principal:
        principal = require(request)
        self._check_origin(request)
        self._auth.admit_call(request, principal)
        return principal

    def _socket_for(self, request: web.Request, placed: PlacedStream) -> SocketFor:
        """Return what goes with the socket."""
        return SocketFor(
            placed.call_id,
            _head(request, self._protocol, placed.token),
            door=self._door,
            tells_extensions=_is_true(request.query.get("extensions")),
            wants_audio=request.query.get("audio", "").lower() not in ("0", "false", "no"),
        )

    async def _hand_over(self, request: web.Request, told: SocketFor) -> web.Response:
        return await take_over(request, partial(self._service.hand_over, told))

    def _check_origin(self, request: web.Request) -> None:
        """Browsers let any page open a WebSocket: there is no CORS for it."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and not self._auth.is_allowed_origin(request, origin):
            raise ProtocolError(
                f"Pages of {origin[:80]!r} may not use this server.",
                code="forbidden_origin",
                status=403,
            )


def _is_true(value: str | None) -> bool:
    return value is not None and value.lower() in ("1", "true", "yes")


def _not_a_websocket(request: web.Request) -> web.Response | None:
    """The refusal of a request that is no opening handshake."""
    upgrade = request.headers.get(hdrs.UPGRADE, "").lower()
    connection = request.headers.get(hdrs.CONNECTION, "").lower()
    if upgrade != "websocket" or "upgrade" not in connection:
        response = json_error(
            426, "This is a WebSocket: connect to it as one.", code="upgrade_required"
        )
        response.headers[hdrs.UPGRADE] = "websocket"
        return response
    if request.headers.get(hdrs.SEC_WEBSOCKET_VERSION) != _VERSION:
        told = f"Sec-WebSocket-Version: only {_VERSION} is spoken."
        response = json_error(426, told, code="upgrade_required")
        response.headers[hdrs.SEC_WEBSOCKET_VERSION] = _VERSION
        return response
    if not _is_key(request.headers.get(hdrs.SEC_WEBSOCKET_KEY, "")):
        return json_error(400, "Sec-WebSocket-Key: 16 bytes in base64 are needed.")
    return None


def _is_key(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _head(request: web.Request, protocol: str, token: str) -> bytes:
    """The answer to the handshake; with the session's token, if it has one."""
    key = request.headers[hdrs.SEC_WEBSOCKET_KEY].encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
    ]
    if protocol in offered_protocols(request):
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    if token:
        lines.append(f"{resuming.HEADER}: {token}")
    return "\r\n".join([*lines, "", ""]).encode()
