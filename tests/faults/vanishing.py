"""Clients that vanish at random moments and come back, or do not: nothing of them stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from random import Random
from typing import Any, Literal, get_args

import aiohttp

from tests.caller import Caller
from tests.faults.scene import PATIENCE_S, Scene
from tests.fuzz.oracles import dead

Moment = Literal["answered", "connecting", "served", "speaking"]
"""After the answer, while it connects, once it is served, within an answer."""
Fate = Literal["never", "vanishes again", "hangs up", "twice at once"]
"""Whether and how it comes back."""

AT_ONCE = 8
SLOTS = 4
"""Fewer than clients at once, so that some wait and slots are given away."""
GRACE_S, CONNECT_S = 3, 4
CONNECTING_S = 0.5
REFUSED = (OSError, AssertionError, aiohttp.ClientError)
"""Raised by a caller that the server does not take, or does not know any more."""
MAX_GROWTH_MIB = 25.0
"""Of a process: what its allocator keeps of the most clients that were there at once."""
OPTIONS = (
    *("--set", f"engine.slots={SLOTS}", "--set", f"calls.grace_s={GRACE_S}"),
    *(
        "--set",
        f"calls.hurried_grace_s={GRACE_S}",
        "--set",
        f"calls.connect_deadline_s={CONNECT_S}",
    ),
    *("--set", "calls.max_per_remote=1000", "--set", "calls.max_connecting=1000"),
    *("--set", "calls.max_queue=100", "--set", "builtin.speech=basic"),
)


class Vanishing:
    """Owns what is counted of all clients."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._scene = scene
        self._rng = Random(seed)
        self._room = asyncio.Semaphore(AT_ONCE)

    async def client(self) -> None:
        """One client, from its offer to the last that is heard of it."""
        moment = self._rng.choice(get_args(Moment))
        fate = self._rng.choice(get_args(Fate))
        async with self._room:
            self.counts[moment] += 1
            token = await self._vanish(Caller(self._scene.server.url, resume="new"), moment)
            if not token or fate == "never":
                return
            twice = 2 if fate == "twice at once" else 1
            backs = [Caller(self._scene.server.url, resume=token) for _ in range(twice)]
            await asyncio.gather(*(self._come_back(caller, fate) for caller in backs))

    async def _vanish(self, caller: Caller, moment: Moment) -> str:
        """Its token, '' where it got no answer."""
        async with _forgotten(caller):
            try:
                answer = await caller.offer()
            except REFUSED:
                self.counts["refused"] += 1
                return ""
            await self._reach(caller, answer, moment)
        return caller.token

    async def _reach(self, caller: Caller, answer: str, moment: Moment) -> None:
        if moment == "answered":
            return
        await caller.accept(answer)
        if moment == "connecting":
            await asyncio.sleep(self._rng.uniform(0, CONNECTING_S))
            return
        with contextlib.suppress(TimeoutError):
            await caller.hears("session.created", timeout_s=PATIENCE_S)
            self.counts["were served"] += 1
            if moment == "speaking":
                caller.type("Tell me a story")
                await caller.hears("output_audio_buffer.started", timeout_s=PATIENCE_S)

    async def _come_back(self, caller: Caller, fate: Fate) -> None:
        async with _forgotten(caller):
            try:
                await caller.accept(await caller.offer())
            except REFUSED:
                # It was too early, too late, or the other one was quicker.
                self.counts["not resumed"] += 1
                return
            with contextlib.suppress(TimeoutError):
                await caller.hears("session.created", timeout_s=GRACE_S)
                self.counts["resumed"] += 1
            if fate == "hangs up":
                with contextlib.suppress(*REFUSED):
                    await caller.hang_up()


@contextlib.asynccontextmanager
async def _forgotten(caller: Caller) -> Any:
    """Afterwards nothing goes to the server any more, and what it sends reaches nobody."""
    try:
        yield
    finally:
        with contextlib.suppress(AttributeError):
            caller.vanish()
        with contextlib.suppress(*REFUSED):
            await caller.__aexit__(None, None, None)


async def run(clients: int, seed: int = 1) -> dict[str, Any]:
    """Let so many vanish from a server of their own, and look at what it holds afterwards."""
    async with Scene(*OPTIONS, states=()) as scene:
        vanishing = Vanishing(scene, seed)
        before = scene.baseline
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(vanishing.client())
        print("all are gone", file=sys.stderr, flush=True)
        leaked = await scene.leaks()
        after = await scene.now()
        stats = await scene.stats()
        served_s = await scene.new_call()
        faults = [*scene.log.alarms(), *leaked, *dead(before, after)]
        if served_s is None:
            faults.append("nobody is served any more")
        old = {one.pid: one for one in before.usage}
        grown = {
            f"{one.role} {one.pid}": round((one.rss_kib - old[one.pid].rss_kib) / 1024, 1)
            for one in after.usage
            if one.pid in old and one.role in ("front", "worker", "engine")
        }
        faults += [
            f"{name} grew by {mib} MiB" for name, mib in grown.items() if mib > MAX_GROWTH_MIB
        ]
        return {
            "clients": clients,
            "counts": dict(vanishing.counts),
            "ended": stats["calls_ended"],
            "grown_mib": grown,
            "new_call_s": served_s,
            "faults": faults,
        }
