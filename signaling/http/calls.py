"""The HTTP API of calls in OpenAI's Realtime shapes: place, hang up, client secrets. Front.

OpenAI API reference, "Realtime / Create call", "Hang up call", "Create client secret".
"""

from typing import Annotated, Any, Literal, Protocol

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta
from multidict import CIMultiDict

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.http import resuming
from signaling.http.auth import (
    SECRET_DEFAULT_S,
    SECRET_MAX_S,
    SECRET_MIN_S,
    Authenticator,
    Principal,
    require,
)
from signaling.http.bodies import MAX_SESSION_BYTES, read_body, read_json, read_offer
from signaling.http.ice_servers import IceServers, links
from signaling.http.resources import Endpoint, add_resource
from signaling.http.trickle import IceService, TrickleEndpoint
from signaling.http.uploads import UploadEndpoint
from signaling.offer import AnswerPlan, check_offer
from signaling.realtime.client_items import ItemCreate
from signaling.session.ids import new_id
from signaling.session.items import MessageItem
from signaling.settings import SessionSettings

CALLS_PATH = "/v1/realtime/calls"
TELEPHONY = ("accept", "reject", "refer")
"""What OpenAI has for calls by SIP."""
SECRETS_PATH = "/v1/realtime/client_secrets"


class PlacedCall(msgspec.Struct, frozen=True):
    """A call that was answered; `call_id` is unguessable and starts with rtc_."""

    call_id: str
    sdp: str
    tag: str
    """The entity tag of its ICE session, with quotes."""
    token: str = ""
    """Shown by a client that comes back over another connection, if it may. Secret."""


class CallService(IceService, Protocol):
    """Places and ends calls; implemented by the front."""

    async def place(
        self,
        sdp: str,
        session: SessionSettings,
        *,
        remote: str,
        callers: tuple[str, ...],
        owner: str | None = None,
        is_resumable: bool = False,
    ) -> PlacedCall:
        """Place a checked offer. Raises NoFreeSlot, ProtocolError, TimeoutError.

        `callers` are whom it counts for, see `Principal.callers`; `owner` is the id of its key.
        `is_resumable`: the session outlives its connection for a while.
        """

    def check_token(self, token: str) -> None:
        """Raise ProtocolError (404) for a token that this server never gave."""

    async def resume(self, token: str, sdp: str) -> PlacedCall:
        """Let a checked offer's connection take the place of the one that a session had.

        Raises NoFreeSlot, ProtocolError (404 no such token, 410 over), TimeoutError.
        """

    def is_lost(self, call_id: str) -> bool:
        """Return whether the call's connection is gone for good and the session is not."""

    async def hang_up(self, call_id: str, reason: str) -> bool:
        """End a call; False if there is none of this id."""

    def is_open(self, call_id: str) -> bool:
        """Return whether there is a call of this id."""

    def why_closed(self, call_id: str) -> ProtocolError:
        """Return the error for a call that is not open: 410 if it ended lately, else 404."""

    async def add_item(self, call_id: str, create: ItemCreate) -> MessageItem:
        """Put an item into a call's conversation; it without its files.

        Raises ProtocolError, TimeoutError.
        """


class SecretExpiry(msgspec.Struct):
    """How long a key lasts."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Meta(ge=SECRET_MIN_S, le=SECRET_MAX_S)] = SECRET_DEFAULT_S


class SecretRequest(msgspec.Struct):
    """What an ephemeral key is to be."""

    expires_after: SecretExpiry | None = None
    session: dict[str, Any] | None = None


def add_routes(
    app: web.Application,
    service: CallService,
    auth: Authenticator,
    servers: IceServers | None = None,
) -> None:
    """Add the call routes; signaling.auth.install must have been called on the same app."""
    api = _Api(service, auth, servers or IceServers())
    call_path = CALLS_PATH + "/{call_id}"
    routes: list[tuple[str, dict[str, Endpoint]]] = [
        (CALLS_PATH, {hdrs.METH_POST: api.place}),
        (
            call_path,
            {
                hdrs.METH_GET: api.get,
                hdrs.METH_PATCH: TrickleEndpoint(service).patch,
                hdrs.METH_DELETE: api.delete,
            },
        ),
        (call_path + "/hangup", {hdrs.METH_POST: api.hang_up}),
        (call_path + "/items", {hdrs.METH_POST: UploadEndpoint(service).add}),
        (SECRETS_PATH, {hdrs.METH_POST: api.create_secret}),
    ]
    routes += [(f"{call_path}/{name}", {hdrs.METH_POST: api.refuse}) for name in TELEPHONY]
    for path, endpoints in routes:
        add_resource(app, path, auth, endpoints)


class _Api:
    """The endpoints; holds nothing but who answers them."""

    def __init__(self, service: CallService, auth: Authenticator, servers: IceServers) -> None:
        self._service = service
        self._auth = auth
        self._servers = servers

    async def place(self, request: web.Request) -> web.Response:
        """Place a call by WebRTC; its id is in `Location`.

        With the header `Omnicall-Resume: new` its session outlives its connection for a while;
        with the token that the answer then has in that header it goes on, without a key.
        """
        wanted = resuming.asked(request)
        if wanted is not None and wanted != resuming.NEW:
            self._service.check_token(wanted)
            sdp, _ = await read_offer(request)
            check_offer(sdp)
            return answered(await self._service.resume(wanted, sdp), CALLS_PATH, self._servers)
        principal = require(request)
        self._auth.admit_call(request, principal)
        sdp, update = await read_offer(request)
        session = session_for(principal, update, request.query.get("model"), check_offer(sdp))
        placed = await self._service.place(
            sdp,
            session,
            remote=request.remote or "",
            callers=principal.callers(request.remote),
            owner=principal.key_id,
            is_resumable=wanted is not None,
        )
        return answered(placed, CALLS_PATH, self._servers)

    async def get(self, request: web.Request) -> web.Response:
        """Tell whether a call is still there, for a client whose media stopped; without a key.

        410 with the reason as the error's code when it ended in the last minutes. `state` is
        `lost` where the session waits for its client to come back with an offer.
        """
        call_id = request.match_info["call_id"]
        if not self._service.is_open(call_id):
            raise self._service.why_closed(call_id)
        state = "lost" if self._service.is_lost(call_id) else "open"
        return web.json_response({"id": call_id, "object": "realtime.call", "state": state})

    async def hang_up(self, request: web.Request) -> web.Response:
        """End a call; without a key, for its id is the capability."""
        # The beacon of a page that is left has no headers.
        await self._end(request)
        return web.json_response({})

    async def delete(self, request: web.Request) -> web.Response:
        """End a call; without a key, for its id is the capability."""
        await self._end(request)
        return web.Response(status=204)

    async def _end(self, request: web.Request) -> None:
        if not await self._service.hang_up(request.match_info["call_id"], "hangup"):
            raise ProtocolError("There is no such call.", code="call_not_found", status=404)

    async def refuse(self, request: web.Request) -> web.Response:
        """Say that there are no calls by SIP, which alone are accepted, rejected and referred."""
        name = request.path.rpartition("/")[2]
        raise ProtocolError(
            f"{name} is for calls by SIP, which are not supported; hangup ends a call.",
            code="not_supported",
            status=501,
        )

    async def create_secret(self, request: web.Request) -> web.Response:
        """Make a key for browsers that expires, with the settings of its sessions."""
        principal = require(request)
        if principal.is_ephemeral:
            raise ProtocolError(
                "A client secret cannot create another one.", code="forbidden", status=403
            )
        body = await read_body(request, MAX_SESSION_BYTES, "session")
        wanted = convert(read_json(body or b"{}", "body"), SecretRequest)
        session = SessionSettings().merge(wanted.session or {})
        lifetime_s = (wanted.expires_after or SecretExpiry()).seconds
        value, expires_at = self._auth.secrets.issue(lifetime_s, session, principal.key_id)
        rendered = session.to_session(new_id("sess"), expires_at=0)
        return web.json_response(
            {"value": value, "expires_at": expires_at, "session": rendered}, dumps=_dumps
        )


def answered(placed: PlacedCall, path: str, servers: IceServers) -> web.Response:
    """Return 201 for a call below `path`, with the STUN and TURN servers that it may use."""
    headers = CIMultiDict({hdrs.LOCATION: f"{path}/{placed.call_id}", hdrs.ETAG: placed.tag})
    if placed.token:
        headers[resuming.HEADER] = placed.token
    headers.extend([(hdrs.LINK, link) for link in links(servers.issue())])
    return web.Response(
        status=201, text=placed.sdp, content_type="application/sdp", headers=headers
    )


def session_for(
    principal: Principal, update: dict[str, Any], model: str | None, plan: AnswerPlan
) -> SessionSettings:
    """The session of a call, from its key, what the client asks, and what its offer has.

    Who has a data channel and no audio line types and reads: turns, and answers in text, unless
    asked otherwise. Raises ProtocolError.
    """
    session = principal.session or SessionSettings()
    if plan.hears is None and plan.speaks is None and plan.data is not None:
        typed = {"audio": {"input": {"turn_detection": None}}, "output_modalities": ["text"]}
        session = session.merge(typed)
    if model and "model" not in update:
        update = {**update, "model": model[:256]}
    return session.merge(update)


def _dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode()
