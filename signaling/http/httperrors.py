"""Errors over HTTP in OpenAI's shape: {"error": {message, type, code, param}}. Front."""

import math
from collections.abc import Iterable

from aiohttp import hdrs, web

from signaling.errors import NoFreeSlot, ProtocolError


def error_response(error: ProtocolError) -> web.Response:
    """Return the response for a client's mistake, with Retry-After when it says when to retry."""
    response = json_error(
        error.status, error.message, type=error.type, code=error.code, param=error.param
    )
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return _retry_after(response, getattr(error, "retry_after_s", None))


def busy_response(error: NoFreeSlot) -> web.Response:
    """Return 503, with Retry-After if it is known when to retry."""
    response = json_error(503, error.message, type="server_error", code="no_free_slot")
    return _retry_after(response, error.retry_after_s)


def wrong_method(methods: Iterable[str]) -> web.Response:
    """Return 405 with what is allowed."""
    allowed = ", ".join(methods)
    response = json_error(405, f"Allowed here: {allowed}.", code="method_not_allowed")
    response.headers[hdrs.ALLOW] = allowed
    return response


def _retry_after(response: web.Response, seconds: float | None) -> web.Response:
    if seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    return response


def json_error(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
) -> web.Response:
    """Return an error object with any status."""
    body = {"error": {"message": message, "type": type, "code": code, "param": param}}
    return web.json_response(body, status=status)
