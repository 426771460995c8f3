"""Our client for browsers in a page of another origin in Firefox, which drivers/page.mjs drives.

python -m tests.bench.clients.drivers.in_firefox URL FOLDER
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from aiohttp import web

from tests.bench.clients.drivers.in_chromium import elsewhere, version_of
from tests.bench.clients.steps import ONLY, arguments
from tests.bench.firefox import firefox

RUN = """
async ([url, version, only]) => {
  let told = Promise.resolve();
  const post = (body) => fetch('/tell', { method: 'POST', body });
  window.tell = (line) => { told = told.then(() => post(line)); };
  const { run } = await import('/drivers/page.mjs');
  await run('omnicall', url, version, only);
  await told;
}
"""


async def main() -> None:
    url, folder = arguments()

    async def tell(request: web.Request) -> web.Response:
        print(await request.text(), flush=True)
        return web.Response()

    given = [url, version_of("omnicall", folder), os.environ.get(ONLY, "")]
    with tempfile.TemporaryDirectory() as profile:
        async with (
            elsewhere("omnicall", folder, folder, [web.post("/tell", tell)]) as origin,
            firefox(Path(profile)) as page,
        ):
            await page.goto(origin)
            await page.evaluate(RUN, given)


if __name__ == "__main__":
    asyncio.run(main())
