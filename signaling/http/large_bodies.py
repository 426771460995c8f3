"""Bodies that may be megabytes: small ones are read at once, large ones a few at a time. Front."""

from contextlib import AsyncExitStack

from aiohttp import web

from signaling.http.bodies import read_body
from signaling.http.proxies import neighbourhood
from signaling.http.upload_line import UploadLine
from signaling.session.ids import new_id

SMALL_BYTES = 256 * 1024


class LargeBodies:
    """Owns the line of those that wait."""

    def __init__(self) -> None:
        self._line = UploadLine()

    async def read(self, request: web.Request, limit: int, upload: AsyncExitStack) -> bytes:
        """The whole body, at most `limit` bytes; a large one holds a place until `upload` ends.

        Raises as `read_body` and `UploadLine.place` do.
        """
        if (request.content_length or limit) <= SMALL_BYTES:
            return await read_body(request, SMALL_BYTES, None)
        place = self._line.place(new_id("body"), neighbourhood(request.remote))
        entered = await upload.enter_async_context(place)
        body = await read_body(request, limit, None, entered.progress)
        entered.is_received = True
        return body
