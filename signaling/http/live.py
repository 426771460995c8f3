"""The HTTP API of OpenAI Live: sessions by WebRTC and by WebSocket, and what joins them. Front.

OpenAI API reference, "Live / Create session", "Sideband connection", "Hang up session".
"""

from typing import Any, Protocol

import msgspec
from aiohttp import hdrs, web

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.http import resuming
from signaling.http.auth import Authenticator, require
from signaling.http.bodies import MAX_SESSION_BYTES, read_body, read_json
from signaling.http.calls import PlacedCall
from signaling.http.resources import Endpoint, add_resource
from signaling.http.streams import StreamEndpoint, StreamService
from signaling.live.config_reading import read_media_config
from signaling.live.session_config import CalledConfig
from signaling.live.settings import settings_of
from signaling.offer import check_offer
from signaling.sdp import MAX_OFFER_BYTES
from signaling.settings import SessionSettings

LIVE_PATH = "/v1/live/sessions"
MAX_BODY_BYTES = MAX_SESSION_BYTES + 2 * MAX_OFFER_BYTES
PROTOCOL = "openai-live"
NOT_SERVED = {
    "fork": "sessions are not stored, so that none can be forked",
    "accept": "calls come by WebRTC and WebSocket, not by SIP: there is nothing to accept",
    "reject": "calls come by WebRTC and WebSocket, not by SIP: there is nothing to reject",
    "refer": "calls come by WebRTC and WebSocket, not by SIP: there is nothing to pass on",
}


class LiveService(StreamService, Protocol):
    """Places Live sessions; implemented by the front."""

    async def place(
        self,
        sdp: str,
        session: SessionSettings,
        *,
        remote: str,
        callers: tuple[str, ...],
        owner: str | None = None,
        live: CalledConfig | None = None,
    ) -> PlacedCall:
        """Place a checked offer. Raises NoFreeSlot, ProtocolError, TimeoutError."""

    def is_open(self, call_id: str) -> bool: ...


class LiveWebRtc(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="webrtc"
):
    """An SDP offer."""

    sdp: str


class LiveCreation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Live session by WebRTC."""

    session: dict[str, Any]
    """A `CalledConfig`."""
    transport: LiveWebRtc


def add_routes(app: web.Application, service: LiveService, auth: Authenticator) -> None:
    """Add the Live routes; signaling.auth.install must have been called on the same app."""
    api = _LiveEndpoints(service, auth)
    one = LIVE_PATH + "/{session_id}"
    routes: list[tuple[str, dict[str, Endpoint]]] = [
        (LIVE_PATH, {hdrs.METH_POST: api.create, hdrs.METH_GET: api.stream.open}),
        (f"{one}/attach", {hdrs.METH_GET: api.attach}),
        (f"{one}/hangup", {hdrs.METH_POST: api.hang_up}),
        (f"{one}/content", {hdrs.METH_GET: api.content}),
    ]
    for name, why in NOT_SERVED.items():
        methods = (hdrs.METH_POST, hdrs.METH_GET) if name == "fork" else (hdrs.METH_POST,)
        routes.append((f"{one}/{name}", dict.fromkeys(methods, _refusal(why))))
    for path, endpoints in routes:
        add_resource(app, path, auth, endpoints)


def _refusal(why: str) -> Endpoint:
    async def refuse(request: web.Request) -> web.Response:
        """Say that this is not served, and why."""
        require(request)
        raise ProtocolError(f"Not supported: {why}.", code="not_supported", status=501)

    return refuse


class _LiveEndpoints:
    """The endpoints; holds nothing but who answers them."""

    def __init__(self, service: LiveService, auth: Authenticator) -> None:
        self.stream = StreamEndpoint(service, auth, door="live", protocol=PROTOCOL)
        self._service = service
        self._auth = auth

    async def create(self, request: web.Request) -> web.Response:
        """Create a Live session by WebRTC."""
        resuming.refuse(request)
        principal = require(request)
        self._auth.admit_call(request, principal)
        wanted, config = await _read(request)
        placed = await self._service.place(
            wanted.transport.sdp,
            settings_of(config),
            remote=request.remote or "",
            callers=principal.callers(request.remote),
            owner=principal.key_id,
            live=config,
        )
        answer = {
            "session": {"id": placed.call_id},
            "transport": {"type": "webrtc", "sdp": placed.sdp},
        }
        return web.json_response(answer, status=201)

    async def attach(self, request: web.Request) -> web.Response:
        """Join a running Live session with a WebSocket."""
        try:
            return await self.stream.join(request, request.match_info["session_id"])
        except ProtocolError as error:
            raise _no_session() if error.status in (404, 410) else error from None

    async def hang_up(self, request: web.Request) -> web.Response:
        """End a Live session; without a key, for its id is the capability."""
        if not await self._service.hang_up(request.match_info["session_id"], "hangup"):
            raise _no_session()
        return web.Response()

    async def content(self, request: web.Request) -> web.Response:
        """Say that the content of sessions is not stored."""
        require(request)
        if not self._service.is_open(request.match_info["session_id"]):
            raise _no_session()
        raise ProtocolError(
            "Clients get no recordings of sessions here.", code="recording_not_found", status=404
        )


def _no_session() -> ProtocolError:
    return ProtocolError("There is no such session.", code="session_not_found", status=404)


async def _read(request: web.Request) -> tuple[LiveCreation, CalledConfig]:
    """The body of a creation; raises ProtocolError."""
    if request.content_type != "application/json":
        raise ProtocolError(
            f"Content-Type {request.content_type[:80]!r} is not supported: send application/json.",
            code="unsupported_media_type",
            status=415,
        )
    body = await read_body(request, MAX_BODY_BYTES, "transport.sdp")
    wanted = convert(read_json(body, "body"), LiveCreation)
    config = read_media_config(wanted.session)
    sdp = wanted.transport.sdp
    if len(sdp.encode()) > MAX_OFFER_BYTES:
        raise ProtocolError(
            f"transport.sdp: at most {MAX_OFFER_BYTES} bytes are allowed.",
            code="too_large",
            param="transport.sdp",
            status=413,
        )
    try:
        check_offer(sdp)
    except ProtocolError as error:
        if error.param is not None:
            error.param = f"transport.{error.param}"
        raise
    return wanted, config
