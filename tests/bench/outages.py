"""What a lost network, a frozen browser, a reload and dead processes cost a call on our page.

    python -m tests.bench.outages [TRIAL ...]

Chromium calls a real server through a UDP relay of our own, which drops all packets for a while or
lets the client appear at another address; requests are held up as long. Prints a line of JSON for
each trial: whether
the session is the same, and how long after the network was back (or the fault came) sound was heard
again. Timings hold for a quiet machine only.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from playwright.async_api import Page, Route

from tests.bench.udp_relay import Relay
from tests.browser.chrome import browse, call, event
from tests.serving import Serving
from tests.speech import microphone

PATIENCE_S = 40.0
PEERS = """
() => {
  window.peers = [];
  window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...all) { super(...all); window.peers.push(this); }
  };
}
"""
ENERGY = """
async () => {
  let energy = 0;
  for (const row of (await window.peers?.at(-1)?.getStats())?.values() ?? []) {
    if (row.type === 'inbound-rtp' && row.kind === 'audio') energy = row.totalAudioEnergy;
  }
  return [window.peers?.length ?? 0, energy];
}
"""
CANDIDATE = re.compile(r"^(a=candidate:\S+ \d+ udp \d+) (\S+) (\d+) (typ host.*)$", re.M | re.I)


class Scene:
    """One call on the page, its answer being heard."""

    def __init__(self, server: Serving, page: Page, relay: Relay) -> None:
        self.server = server
        self.page = page
        self.relay = relay

    async def through_relay(self, route: Route) -> None:
        """Answer a request of the page, with the relay's address in place of the server's."""
        await self.relay.passes.wait()
        if route.request.failure is not None:
            # The page has given it up meanwhile: the network has lost it.
            return
        answer = await route.fetch()
        body = await answer.text()
        found = CANDIDATE.search(body)
        if found is None:
            await route.fulfill(response=answer)
            return
        await self.relay.lead_to(found[2], int(found[3]))
        ours = CANDIDATE.sub("", body, count=0)
        line = f"{found[1]} 127.0.0.1 {self.relay.port} typ host"
        ours = re.sub(r"^(a=mid:\S+)\r\n", rf"\1\r\n{line}\r\n", ours, count=1, flags=re.M)
        ours = re.sub(r"(\r?\n)+", "\r\n", ours)
        await route.fulfill(response=answer, body=ours)

    async def begin(self) -> str:
        """Call, and wait until the answer is heard; the session's id."""
        await call(self.page)
        created = await event(self.page, "session.created")
        await self.page.fill("#text", "Tell me a story")
        await self.page.press("#text", "Enter")
        await self.heard()
        return str(created["session"]["id"])

    async def heard(self) -> float:
        """Wait until sound is heard; how long that took."""
        begun = time.monotonic()
        before: list[float] = []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                now = await self.page.evaluate(ENERGY)
                if before and now[0] == before[0] and now[1] > before[1] + 1e-4:
                    return time.monotonic() - begun
                before = now
                await asyncio.sleep(0.1)

    async def sessions(self) -> list[str]:
        found: list[str] = await self.page.evaluate(
            "() => window.omnicall.events.filter(e => e.type === 'session.created')"
            ".map(e => e.session.id)"
        )
        return found


async def lose(scene: Scene, seconds: float) -> float:
    scene.relay.passes.clear()
    await asyncio.sleep(seconds)
    scene.relay.passes.set()
    return await scene.heard()


async def move(scene: Scene) -> float:
    scene.relay.move()
    return await scene.heard()


async def freeze(scene: Scene, seconds: float) -> float:
    pids = browser_pids()
    for number, pause_s in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
        for pid in pids:
            os.kill(pid, number)
        await asyncio.sleep(pause_s)
    return await scene.heard()


async def reload(scene: Scene) -> float:
    begun = time.monotonic()
    await scene.page.reload()
    await scene.heard()
    return time.monotonic() - begun


async def kill(scene: Scene, role: str) -> float:
    _, stats = await asyncio.to_thread(scene.server.get, "/api/stats")
    name = stats["calls"][0][role]
    pid = next(process["pid"] for process in stats["processes"] if process["name"] == name)
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    told = "session.resumed" if role == "engine" else "session.continued"
    await event(scene.page, told)
    return time.monotonic() - begun


def browser_pids() -> list[int]:
    """The processes of the Chromium that this one has started."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "comm").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])

    def is_ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [pid for pid, name in names.items() if "chrom" in name and is_ours(pid)]


Trial = Callable[[Scene], Awaitable[float]]
TRIALS: dict[str, Trial] = {
    **{f"lose {seconds} s": partial(lose, seconds=seconds) for seconds in (1, 2, 4, 8, 20)},
    "another address": move,
    "browser stopped 6 s": partial(freeze, seconds=6),
    "browser stopped 25 s": partial(freeze, seconds=25),
    "page reloaded": reload,
    "media worker killed": partial(kill, role="worker"),
    "engine killed": partial(kill, role="engine"),
}


async def run(server: Serving, name: str, folder: Path) -> dict[str, Any]:
    """One trial with a browser of its own."""
    mic = microphone(folder / "mic.wav", [], 120)
    relay = await Relay.open()
    async with browse("about:blank", mic) as page:
        scene = Scene(server, page, relay)
        await page.add_init_script(f"({PEERS})()")
        await page.route("**/v1/realtime/calls*", scene.through_relay)
        await page.route("**/v1/realtime/calls/*", scene.through_relay)
        await page.goto(server.url)
        before = await scene.begin()
        row: dict[str, Any] = {"trial": name}
        try:
            row["sound_after_s"] = round(await TRIALS[name](scene), 2)
        except TimeoutError:
            row["sound_after_s"] = None
        row["same_session"] = set(await scene.sessions()) == {before}
        row["connections"] = len(await scene.sessions())
        row["dropped"] = relay.dropped
    relay.close()
    return row


async def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = ("media.workers=2", "engine.count=2", "chat.slots=0")
        settings = [part for option in options for part in ("--set", option)]
        for name in names or TRIALS:
            with Serving("--engine", "builtin", *settings) as server:
                print(json.dumps(await run(server, name, Path(folder))), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
