"""Cross-origin rules of the signaling API: who may call from another page. Front."""

from aiohttp import hdrs, web

from signaling.http.auth import Authenticator

ALLOWED_HEADERS = (
    *("authorization", "content-type", "if-match", "etag"),
    *("x-openai-agents-sdk", "omnicall-resume"),
)
EXPOSED_HEADERS = (
    "Location",
    "ETag",
    "Link",
    "Retry-After",
    "Omnicall-Ignored",
    "Omnicall-Resume",
    # By this one @eyevinn/whip-web-client learns whether it may trickle.
    "Access-Control-Allow-Methods",
)
ALLOWED_HEADER_PREFIXES = ("openai-", "x-stainless-")
MAX_AGE_S = 600


def add_cors(request: web.Request, response: web.StreamResponse, auth: Authenticator) -> None:
    """Let the page that sent the request read the response, if its origin is allowed."""
    response.headers.add(hdrs.VARY, "Origin")
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or not auth.is_allowed_origin(request, origin):
        return
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join(EXPOSED_HEADERS)


def preflight(
    request: web.Request,
    auth: Authenticator,
    methods: tuple[str, ...],
    announced: tuple[str, ...] = (),
) -> web.Response:
    """Answer OPTIONS: what the resource takes, and a preflight if it is one.

    `announced` are methods that pages are granted besides.
    """
    allowed = ", ".join(methods)
    response = web.Response(status=204, headers={hdrs.ALLOW: allowed})
    add_cors(request, response, auth)
    if hdrs.ACCESS_CONTROL_ALLOW_ORIGIN in response.headers:
        wanted = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
        names = [name.strip().lower() for name in wanted.split(",") if name.strip()]
        granted = [name for name in names if _is_allowed_header(name)]
        granted_methods = dict.fromkeys((*methods, *announced))
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = ", ".join(granted_methods)
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ", ".join(granted or ALLOWED_HEADERS)
        response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(MAX_AGE_S)
    return response


def _is_allowed_header(name: str) -> bool:
    return name in ALLOWED_HEADERS or name.startswith(ALLOWED_HEADER_PREFIXES)
