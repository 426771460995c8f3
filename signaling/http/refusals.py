"""Requests below /v1 without a route: 404 and 405 in OpenAI's shape, hints where they help. Front.

SDKs show the message of an error object, and no more than the status of plain text.
"""

import re

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from signaling.http.auth import Authenticator
from signaling.http.cors import add_cors, preflight
from signaling.http.httperrors import json_error, wrong_method

ROOTS = ("/v1", "/whip")
UNKNOWN = "unknown_url"

_SECRETS = "make keys for browsers with POST /v1/realtime/client_secrets"
_SIP = "calls come by WebRTC and WebSocket, not by SIP: there is nothing to accept or to pass on"
HINTS = (
    (r"/v1/realtime/sessions", 404, f"The beta API is gone; {_SECRETS}."),
    (r"/v1/realtime/transcription_sessions", 404, f"The beta API is gone; {_SECRETS}."),
    (r"/v1/realtime/translations(/.*)?", 404, "Sessions that translate are not served."),
    (r"/v1/(completions|responses)(/.*)?", 404, "Not served: use POST /v1/chat/completions."),
    (r"/v1/realtime/calls/[^/]+/(accept|reject|refer)", 501, f"Not supported: {_SIP}."),
)
"""Paths that clients know of and that have no resource here: pattern, status, message."""


def explain(auth: Authenticator) -> Middleware:
    """Answer in JSON what the router refuses in plain text; readable by other pages, too."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            if not any(f"{request.path}/".startswith(f"{root}/") for root in ROOTS):
                raise
            response = _refusal(request, error, auth)
            if request.method != hdrs.METH_OPTIONS:
                add_cors(request, response, auth)
            return response

    return answer


def _refusal(request: web.Request, error: web.HTTPException, auth: Authenticator) -> web.Response:
    if isinstance(error, web.HTTPMethodNotAllowed):
        methods = sorted(error.allowed_methods)
        if request.method == hdrs.METH_OPTIONS:
            return preflight(request, auth, (*methods, hdrs.METH_OPTIONS))
        return wrong_method(methods)
    if request.method == hdrs.METH_OPTIONS:
        # Else the page that asks would not be shown the 404 that follows.
        return preflight(request, auth, (hdrs.METH_OPTIONS,))
    for pattern, status, message in HINTS:
        if re.fullmatch(pattern, request.path):
            return json_error(status, message, code="not_supported" if status == 501 else UNKNOWN)
    message = f"Nothing is served at {request.method} {request.path[:100]}."
    return json_error(404, message, code=UNKNOWN)
