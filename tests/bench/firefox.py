"""A headless Firefox, driven by WebDriver BiDi, which it speaks itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

PREFERENCES: dict[str, bool | int] = {
    "media.autoplay.default": 0,
    "media.autoplay.blocking_policy": 0,
    "media.navigator.permission.disabled": True,
    # Without it a machine that has no address but loopback cannot call.
    "media.peerconnection.ice.loopback": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.enabled": False,
}
START_S = 60.0


class FirefoxPage:
    """One tab: evaluates JavaScript, whose results come as JSON."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._context = ""

    async def open(self) -> None:
        await self._ask("session.new", capabilities={})
        tree = await self._ask("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]

    async def prepare(self, function: str) -> None:
        """Run a function in each page before its own scripts."""
        await self._ask("script.addPreloadScript", functionDeclaration=function)

    async def goto(self, url: str) -> None:
        await self._ask("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, function: str, argument: Any = None) -> Any:
        """Call a function, asynchronous or not. Raises RuntimeError where it throws."""
        text = (
            f"(async () => JSON.stringify(await ({function})({json.dumps(argument)})) ?? 'null')()"
        )
        answer = await self._ask(
            "script.evaluate",
            expression=text,
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        if answer["type"] != "success":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])

    async def _ask(self, method: str, **parameters: Any) -> Any:
        ident = next(self._ids)
        await self._socket.send_json({"id": ident, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == ident:
                break
        if answer["type"] == "error":
            raise RuntimeError(f"{method}: {answer['message']}")
        return answer["result"]


@asynccontextmanager
async def firefox(folder: Path) -> AsyncIterator[FirefoxPage]:
    """A tab of a Firefox whose profile lies in `folder`."""
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    assert program is not None, "there is no Firefox"
    lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in PREFERENCES.items())
    (folder / "user.js").write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        *(program, "--headless", "--no-remote", "--profile", str(folder)),
        "--remote-debugging-port=0",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        told = folder / "WebDriverBiDiServer.json"
        async with asyncio.timeout(START_S):
            while not told.exists() or not told.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        where = json.loads(told.read_text())
        url = f"ws://{where['ws_host']}:{where['ws_port']}/session"
        async with aiohttp.ClientSession() as http, http.ws_connect(url, max_msg_size=0) as socket:
            page = FirefoxPage(socket)
            await page.open()
            yield page
    finally:
        process.terminate()
        await process.wait()
