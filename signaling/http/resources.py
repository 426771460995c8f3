"""One handler for all methods of a path: CORS, OPTIONS, 405 and errors in one place. Front."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from aiohttp import hdrs, web
from multidict import CIMultiDict

from signaling.errors import NoFreeSlot, ProtocolError
from signaling.http.auth import Authenticator
from signaling.http.bodies import ClientLeft
from signaling.http.cors import add_cors, preflight
from signaling.http.httperrors import busy_response, error_response, json_error, wrong_method

logger = logging.getLogger(__name__)

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Resource(NamedTuple):
    """The endpoints of a path, by method."""

    path: str
    endpoints: Mapping[str, Endpoint]
    """By method; their docstrings are what the documentation says of them."""


RESOURCES = web.AppKey("resources", list[Resource])
"""All that were added, in order."""


def add_resource(
    app: web.Application,
    path: str,
    auth: Authenticator,
    endpoints: Mapping[str, Endpoint],
    options: Callable[[web.Request], CIMultiDict[str]] | None = None,
    announced: tuple[str, ...] = (),
) -> None:
    """Add what answers each method of `path`.

    `options` gives more headers for the answer to OPTIONS; `announced` are methods of the resources
    made here: some web clients look for them at this one.
    """
    methods = (*endpoints, hdrs.METH_OPTIONS)
    app.setdefault(RESOURCES, []).append(Resource(path, endpoints))

    async def handle(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse
        if request.method == hdrs.METH_OPTIONS:
            response = preflight(request, auth, methods, announced)
            if options is not None:
                response.headers.extend(options(request))
            return response
        endpoint = endpoints.get(request.method)
        if endpoint is None:
            response = wrong_method(methods)
        else:
            response = await _answer(endpoint, request)
        if not response.prepared:
            add_cors(request, response, auth)
        return response

    app.router.add_resource(path).add_route(hdrs.METH_ANY, handle, expect_handler=_expect)


async def _expect(request: web.Request) -> None:
    """Let the body come when it is read, not before the key was looked at (`read_body`)."""


async def _answer(endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
    try:
        return await endpoint(request)
    except ClientLeft as error:
        logger.info("%s %s: %s", request.method, request.rel_url.path, error.message)
        return error_response(error)
    except ProtocolError as error:
        return error_response(error)
    except NoFreeSlot as error:
        return busy_response(error)
    except TimeoutError:
        return json_error(504, "It was not answered in time.", type="server_error", code="timeout")
    except Exception:
        logger.exception("%s %s failed", request.method, request.rel_url.path)
        return json_error(500, "Internal error.", type="server_error", code="internal_error")
