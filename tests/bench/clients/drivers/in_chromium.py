"""Clients in a page of another origin in Chromium, which drivers/page.mjs drives.

python -m tests.bench.clients.drivers.in_chromium URL FOLDER agents|omnicall|whip NODE_MODULES
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from playwright.async_api import Page

from tests import ROOT
from tests.bench.clients.steps import ONLY, Report, arguments
from tests.browser.chrome import browse
from tests.browser.test_whip import INGEST, LOADER, NEEDED

PACKAGES = {"agents": "@openai/agents-realtime", "whip": "@eyevinn/whip-web-client"}


@contextlib.asynccontextmanager
async def elsewhere(
    client: str, folder: Path, modules: Path, routes: Sequence[web.RouteDef] = ()
) -> AsyncIterator[str]:
    """A server of pages, modules and speech."""

    async def index(request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>-</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_routes(routes)
    app.router.add_static("/drivers", Path(__file__).parent)
    app.router.add_static("/lib", ROOT / "web" / "lib")
    app.router.add_static("/speech", folder)
    if client in PACKAGES:
        app.router.add_static("/modules", modules)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "localhost", 0)
        await site.start()
        yield f"http://localhost:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def version_of(client: str, modules: Path) -> str:
    if client not in PACKAGES:
        library = (ROOT / "web" / "lib" / "omnicall.js").read_text()
        return library.partition("VERSION = '")[2].partition("'")[0]
    described = json.loads((modules / PACKAGES[client] / "package.json").read_text())
    return str(described["version"])


async def received(url: str, kind: str, name: str) -> int:
    """A figure of what the server got from its only call."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/api/stats") as answer:
        stats: dict[str, Any] = await answer.json()
    rows = [row for call in stats["calls"] for row in call["stats"]]
    found = [row for row in rows if row["type"] == "inbound-rtp" and row["kind"] == kind]
    return int(found[0].get(name, 0)) if found else 0


async def ingest(page: Page, report: Report, url: str, modules: Path) -> None:
    """WHIP's client only sends."""
    sources = {name: (modules / path).read_text() for name, path in NEEDED.items()}
    await page.evaluate(LOADER, sources)
    async with report.step("connects"):
        told = await page.evaluate(INGEST, f"{url}/whip")
        assert told["resource"].startswith(f"{url}/whip/")
    async with report.step("speech"):
        while await received(url, "audio", "packetsReceived") < 50:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        while await received(url, "video", "framesDecoded") < 1:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    async with report.step("hang-up"):
        await page.evaluate("() => window.client.destroy()")


async def main() -> None:
    url, folder = arguments()
    client, modules = sys.argv[3], Path(sys.argv[4])
    version = version_of(client, modules)
    async with elsewhere(client, folder, modules) as origin, browse(origin) as page:
        if client == "whip":
            await ingest(page, Report(version), url, modules)
            return
        await page.expose_function("tell", lambda line: print(line, flush=True))
        page.on("pageerror", lambda error: print(json.dumps({"note": str(error)}), flush=True))
        await page.evaluate(
            "([name, url, version, only]) => import('/drivers/page.mjs')"
            ".then(({ run }) => run(name, url, version, only))",
            [client, url, version, os.environ.get(ONLY, "")],
        )


if __name__ == "__main__":
    asyncio.run(main())
