"""The addresses of the model team's demo, which lead to the call page in the right mode."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from yarl import URL

from engine.ipc.session_config import Mode

_PLACES: dict[str, tuple[Mode, bool]] = {
    "/omni": ("full_duplex", True),
    "/audio_duplex": ("full_duplex", False),
    "/half_duplex": ("half_duplex", False),
    "/turnbased": ("turn_based", False),
    "/mobile": ("turn_based", False),
    "/mobile-omni": ("full_duplex", True),
    "/realtime": ("full_duplex", True),
}
"""Path -> mode, and whether there is a camera."""
ADDRESSES = tuple(_PLACES)


def page_of(url: URL) -> URL | None:
    """The call page's address for one of the demo's, or None; what else the query says is kept."""
    place = _PLACES.get(url.path.rstrip("/"))
    if place is None:
        return None
    mode, has_camera = place
    if url.path.startswith("/realtime"):
        has_camera = url.query.get("mode", "video") != "audio"
    camera = "on" if has_camera else "off"
    return URL("/").with_query(url.query).update_query(mode=mode, camera=camera)


@web.middleware
async def lead_to_page(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send browsers from the demo's addresses to `/?mode=...&camera=on|off`.

    `/realtime` is a WebSocket's, too.
    """
    is_for_people = hdrs.UPGRADE not in request.headers and _wants_page(request)
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD) and is_for_people:
        page = page_of(request.rel_url)
        if page is not None:
            headers = {hdrs.LOCATION: str(page), hdrs.CACHE_CONTROL: "no-cache"}
            return web.Response(status=302, headers=headers)
    return await handler(request)


def _wants_page(request: web.Request) -> bool:
    # Only /realtime is also something else; programs ask for the others as they like.
    path = request.path.rstrip("/")
    return path != "/realtime" or "text/html" in request.headers.get(hdrs.ACCEPT, "")
