"""WHIP (RFC 9725): encoders and browsers send sound and pictures with one POST. Front.

The same calls as those of OpenAI's door. Beyond the RFC, whoever offers `sendrecv` hears the
answers on the same connection, and a data channel carries the events.
"""

from aiohttp import hdrs, web
from multidict import CIMultiDict

from signaling import fragment
from signaling.errors import ProtocolError
from signaling.http.auth import Authenticator, require
from signaling.http.bodies import read_sdp
from signaling.http.calls import CallService, answered, session_for
from signaling.http.ice_servers import IceServers, links
from signaling.http.resources import add_resource
from signaling.http.trickle import TrickleEndpoint
from signaling.offer import check_whole_offer

WHIP_PATH = "/whip"


def add_routes(
    app: web.Application, service: CallService, auth: Authenticator, servers: IceServers
) -> None:
    """Add the endpoint and its sessions; signaling.http.auth.install must have been called."""
    door = _Door(service, auth, servers)
    session = {
        hdrs.METH_PATCH: TrickleEndpoint(service).patch,
        hdrs.METH_DELETE: door.delete,
    }
    add_resource(
        app, WHIP_PATH, auth, {hdrs.METH_POST: door.place}, door.options, announced=tuple(session)
    )
    add_resource(app, WHIP_PATH + "/{call_id}", auth, session, _session_options)


def _session_options(request: web.Request) -> CIMultiDict[str]:
    return CIMultiDict({"Accept-Patch": fragment.CONTENT_TYPE})


class _Door:
    """The endpoints; holds nothing but who answers them."""

    def __init__(self, service: CallService, auth: Authenticator, servers: IceServers) -> None:
        self._service = service
        self._auth = auth
        self._servers = servers

    def options(self, request: web.Request) -> CIMultiDict[str]:
        """What is taken; for who has a key the servers, too, unless it is a preflight."""
        headers = CIMultiDict({"Accept-Post": "application/sdp"})
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers and self._is_known(request):
            headers.extend([(hdrs.LINK, link) for link in links(self._servers.issue())])
        return headers

    def _is_known(self, request: web.Request) -> bool:
        try:
            return self._auth.identify(request) is not None
        except ProtocolError:
            return False

    async def place(self, request: web.Request) -> web.Response:
        """Place a call by WHIP (RFC 9725); its address is in `Location`."""
        principal = require(request)
        self._auth.admit_call(request, principal)
        sdp = await read_sdp(request, "application/sdp")
        plan = check_whole_offer(sdp)
        session = session_for(principal, {}, request.query.get("model"), plan)
        placed = await self._service.place(
            sdp,
            session,
            remote=request.remote or "",
            callers=principal.callers(request.remote),
            owner=principal.key_id,
        )
        return answered(placed, WHIP_PATH, self._servers)

    async def delete(self, request: web.Request) -> web.Response:
        """End the session; by its id alone, whatever entity tags come with it."""
        call_id = request.match_info["call_id"]
        if not await self._service.hang_up(call_id, "hangup"):
            raise self._service.why_closed(call_id)
        return web.Response()
