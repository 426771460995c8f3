"""Bodies that are sent as they are made, such as server-sent events. Front."""

from collections.abc import Mapping

from aiohttp import hdrs, web

from signaling.http.auth import Authenticator
from signaling.http.bodies import ClientLeft
from signaling.http.cors import add_cors

IGNORED_HEADER = "Omnicall-Ignored"


def ignored_header(*names: tuple[str, ...]) -> dict[str, str]:
    """Name the members of a request that change nothing."""
    told = ", ".join(dict.fromkeys(name for each in names for name in each))
    return {IGNORED_HEADER: told} if told else {}


class StreamedBody:
    """Owns the response; its head is held back until there is something to send.

    Until then what goes wrong can be told by a status.
    """

    def __init__(
        self,
        request: web.Request,
        auth: Authenticator,
        content_type: str,
        headers: Mapping[str, str],
    ) -> None:
        self._request = request
        self.response = web.StreamResponse(headers=headers)
        self.response.content_type = content_type
        self.response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        # nginx would hold it back.
        self.response.headers["X-Accel-Buffering"] = "no"
        add_cors(request, self.response, auth)

    @property
    def has_begun(self) -> bool:
        return self.response.prepared

    async def write(self, data: bytes) -> None:
        """Send; returns when the client keeps up. Raises ClientLeft when it is gone."""
        try:
            if not self.response.prepared:
                await self.response.prepare(self._request)
            if data:
                await self.response.write(data)
        except ConnectionError:
            raise ClientLeft from None
