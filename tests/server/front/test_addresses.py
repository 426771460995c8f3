"""The demo's addresses lead people to the call page, and leave programs alone."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from server.front.addresses import ADDRESSES, lead_to_page, page_of


@pytest.mark.parametrize(
    ("given", "page"),
    [
        ("/omni", "/?mode=full_duplex&camera=on"),
        ("/audio_duplex", "/?mode=full_duplex&camera=off"),
        ("/half_duplex", "/?mode=half_duplex&camera=off"),
        ("/turnbased", "/?mode=turn_based&camera=off"),
        ("/mobile", "/?mode=turn_based&camera=off"),
        ("/mobile/", "/?mode=turn_based&camera=off"),
        ("/mobile-omni", "/?mode=full_duplex&camera=on"),
        ("/realtime", "/?mode=full_duplex&camera=on"),
        ("/realtime?mode=audio", "/?mode=full_duplex&camera=off"),
        ("/omni?key=abc&lang=zh", "/?key=abc&lang=zh&mode=full_duplex&camera=on"),
        ("/omnivore", None),
        ("/", None),
    ],
)
def test_address_leads_to_the_page_with_its_mode(given: str, page: str | None) -> None:
    found = page_of(URL(given))
    assert (None if found is None else str(found)) == page


async def test_only_people_are_led() -> None:
    async def stream(request: web.Request) -> web.Response:
        return web.Response(status=426)

    app = web.Application(middlewares=[lead_to_page])
    app.router.add_get("/realtime", stream)
    async with TestClient(TestServer(app)) as client:
        for path in ADDRESSES:
            headers = {"Accept": "text/html,*/*"}
            response = await client.get(path, headers=headers, allow_redirects=False)
            assert response.status == 302
            assert response.headers["Location"].startswith("/?mode=")
        assert (await client.get("/realtime", allow_redirects=False)).status == 426
        upgrade = {"Accept": "text/html", "Upgrade": "websocket"}
        response = await client.get("/realtime", headers=upgrade, allow_redirects=False)
        assert response.status == 426
        assert (await client.post("/omni", allow_redirects=False)).status == 404
