"""PATCH of a call: candidates and ICE restart in fragments (RFC 8840 and 9725). Front."""

from typing import Protocol

import msgspec
from aiohttp import hdrs, web

from signaling.errors import ProtocolError
from signaling.fragment import CONTENT_TYPE, parse_fragment
from signaling.http.bodies import read_sdp


class IceAnswer(msgspec.Struct, frozen=True):
    """Our side of a new ICE session, and its entity tag with quotes."""

    fragment: str
    tag: str


class IceService(Protocol):
    """The part of `signaling.http.calls.CallService` needed here."""

    def is_open(self, call_id: str) -> bool: ...

    def why_closed(self, call_id: str) -> ProtocolError: ...

    async def update_ice(
        self, call_id: str, fragment: str, tags: frozenset[str] | None
    ) -> IceAnswer | None:
        """Hand over a checked fragment; our side if it restarted ICE.

        `tags` are the entity tags of which the present one must be one, None any. Raises
        ProtocolError, 412 among others, and TimeoutError.
        """


class TrickleEndpoint:
    """The endpoint; as for hanging up, the call's id is the capability."""

    def __init__(self, service: IceService) -> None:
        self._service = service

    async def patch(self, request: web.Request) -> web.Response:
        """Take ICE candidates (204), or restart ICE: 200 with a fragment and another ETag."""
        call_id = request.match_info["call_id"]
        if not self._service.is_open(call_id):
            raise self._service.why_closed(call_id)
        tags = _tags(request)
        fragment = await read_sdp(request, CONTENT_TYPE)
        parse_fragment(fragment)
        answer = await self._service.update_ice(call_id, fragment, tags)
        if answer is None:
            return web.Response(status=204)
        return web.Response(
            text=answer.fragment, content_type=CONTENT_TYPE, headers={hdrs.ETAG: answer.tag}
        )


def _tags(request: web.Request) -> frozenset[str] | None:
    """The entity tags of If-Match; None for any, written as RFC 9110 or as RFC 9725 has it."""
    # Clients of early drafts (@eyevinn/whip-web-client 1.1.7) send it back as ETag.
    name = hdrs.IF_MATCH if hdrs.IF_MATCH in request.headers else hdrs.ETAG
    given = ",".join(request.headers.getall(name, []))
    if not given.strip():
        raise ProtocolError(
            "If-Match is needed: the ETag of the answer, or * to restart ICE.",
            code="precondition_required",
            param="If-Match",
            status=428,
        )
    tags = frozenset(tag.strip() for tag in given.split(","))
    return None if tags & {"*", '"*"'} else tags
