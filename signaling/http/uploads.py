"""Items that are too large for the data channel, over HTTP: POST .../calls/{call_id}/items. Front.

A message of the data channel is limited to 256 KiB, by us and by what aiortc announces as
a=max-message-size; a video file is not.
"""

import asyncio
from typing import Protocol

import msgspec
from aiohttp import web

from signaling.errors import ProtocolError
from signaling.http.bodies import read_body
from signaling.http.event_stream import ignored_header
from signaling.http.proxies import neighbourhood
from signaling.http.upload_line import UploadLine
from signaling.realtime.client_items import ItemCreate, parse_upload
from signaling.realtime.rendering import rendered_item
from signaling.session.items import MessageItem

MAX_BODY_BYTES = 40_000_000


class ItemService(Protocol):
    """The part of `signaling.http.calls.CallService` needed here."""

    def is_open(self, call_id: str) -> bool: ...

    def why_closed(self, call_id: str) -> ProtocolError: ...

    async def add_item(self, call_id: str, create: ItemCreate) -> MessageItem: ...


class UploadEndpoint:
    """The endpoint; the uploads under way are in its line."""

    def __init__(self, service: ItemService) -> None:
        self._service = service
        self._line = UploadLine()

    async def add(self, request: web.Request) -> web.Response:
        """Put an item with files into a call's conversation; without a key, by the call's id.

        Members that change nothing are named in the header `Omnicall-Ignored`.
        """
        call_id = request.match_info["call_id"]
        if not self._service.is_open(call_id):
            raise self._service.why_closed(call_id)
        async with self._line.place(call_id, neighbourhood(request.remote)) as upload:
            body = await read_body(request, MAX_BODY_BYTES, "item", upload.progress)
            upload.is_received = True
            create = await asyncio.to_thread(parse_upload, body)
            del body
            item = await self._service.add_item(call_id, create)
        return web.Response(
            body=msgspec.json.encode(rendered_item(item)),
            content_type="application/json",
            headers=ignored_header(create.unused),
        )
