"""An answer as server-sent events. Front."""

from collections.abc import Mapping

from aiohttp import hdrs, web

from signaling.http.auth import Authenticator
from signaling.http.cors import add_cors


class EventStream:
    """Owns the response; its head is held back until there is something to send.

    Until then what goes wrong can be told by a status.
    """

    def __init__(
        self, request: web.Request, auth: Authenticator, headers: Mapping[str, str]
    ) -> None:
        self._request = request
        self.response = web.StreamResponse(headers=headers)
        self.response.content_type = "text/event-stream"
        self.response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        # nginx would hold the events back.
        self.response.headers["X-Accel-Buffering"] = "no"
        add_cors(request, self.response, auth)

    @property
    def has_begun(self) -> bool:
        return self.response.prepared

    async def write(self, events: bytes) -> None:
        """Send; returns when the client keeps up. Raises ConnectionError when it is gone."""
        if not self.response.prepared:
            await self.response.prepare(self._request)
        if events:
            await self.response.write(events)
