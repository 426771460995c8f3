"""Items that are too large for the data channel, over HTTP: POST .../calls/{call_id}/items. Front.

A message of the data channel is limited to 256 KiB, by us and by what aiortc announces as
a=max-message-size; a video file is not.
"""

import asyncio
from typing import Protocol

import msgspec
from aiohttp import web

from signaling.client_items import ItemCreate, parse_upload
from signaling.errors import ProtocolError
from signaling.http.bodies import read_bounded
from signaling.server_events import MessageItem

MAX_BODY_BYTES = 40_000_000
MAX_UPLOADS = 4
"""At once, over all calls: each is in memory about three times while it is decoded."""
READ_TIMEOUT_S = 120.0


class Taker(Protocol):
    """Who has the calls; see `signaling.http.calls.Desk`."""

    def is_open(self, call_id: str) -> bool: ...

    async def add_item(self, call_id: str, create: ItemCreate) -> MessageItem: ...


class Uploads:
    """Owns the endpoint and which calls upload just now."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker
        self._busy: set[str] = set()

    async def add(self, request: web.Request) -> web.Response:
        """Take one item; without a key, as hanging up: the call's id is the capability."""
        call_id = request.match_info["call_id"]
        if not self._taker.is_open(call_id):
            raise ProtocolError("There is no such call.", code="call_not_found", status=404)
        if call_id in self._busy:
            raise ProtocolError(
                "Another item of this call is being uploaded.",
                code="upload_in_progress",
                status=409,
            )
        if len(self._busy) >= MAX_UPLOADS:
            raise ProtocolError(
                f"{MAX_UPLOADS} uploads are under way; try again.", code="rate_limited", status=429
            )
        self._busy.add(call_id)
        try:
            body = await self._read(request)
            create = await asyncio.to_thread(parse_upload, body)
            del body
            item = await self._taker.add_item(call_id, create)
        finally:
            self._busy.discard(call_id)
        return web.Response(body=msgspec.json.encode(item), content_type="application/json")

    async def _read(self, request: web.Request) -> bytes:
        length = request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            # Nothing of it needs to be read to know.
            raise ProtocolError(
                f"At most {MAX_BODY_BYTES} bytes are allowed, the body has {length}.",
                code="too_large",
                param="item",
                status=413,
            )
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await read_bounded(request.content.iter_any(), MAX_BODY_BYTES, "item")
        except TimeoutError:
            raise ProtocolError(
                f"The body was not complete within {READ_TIMEOUT_S:g} s.",
                code="timeout",
                param="item",
                status=408,
            ) from None
