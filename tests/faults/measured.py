"""What callers lose while somebody attacks: a server with a key, and calls under way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.bystander import Bystander
from tests.fuzz.oracles import Log
from tests.processes import descendants, is_there, role
from tests.serving import Serving

KEY = "a-key-of-the-fault-tests-0123456789"


class Loss(Struct, frozen=True):
    """What one call lost between two moments."""

    seconds: float
    heard_percent: float
    """Of the sound that the caller should have heard."""
    received_percent: float
    """Of the 50 packets a second, whatever the caller's own process made of them."""
    concealed_percent: float
    """Of the caller's own sound, at the server."""
    packets_lost: int
    over: str


class Attacked:
    """Owns the server and the callers who must notice nothing."""

    def __init__(self, server: Serving, log: Log, bystanders: list[Bystander]) -> None:
        self.server = server
        self.log = log
        self._bystanders = bystanders
        self._roles = {pid: role(pid) for pid in descendants(server.pid)}
        self._before: list[tuple[Any, ...]] = []
        self._log_bytes = 0

    async def stats(self) -> dict[str, Any]:
        def get() -> dict[str, Any]:
            request = urllib.request.Request(
                self.server.url.split("?")[0] + "api/stats",
                headers={"Authorization": f"Bearer {KEY}"},
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                found: dict[str, Any] = json.load(answer)
                return found

        return await asyncio.to_thread(get)

    async def begin(self) -> None:
        """From here on it counts."""
        self._log_bytes = self.log.size
        self._before = await self._now()

    async def end(self) -> dict[str, Any]:
        """What was lost, who died, what was logged."""
        after = await self._now()
        losses = [_loss(*pair) for pair in zip(self._before, after, strict=True)]
        died = [name for pid, name in self._roles.items() if not is_there(pid)]
        return {
            "calls": losses,
            "died": [name for name in died if name != "recogniser"],
            "log_bytes": self.log.size - self._log_bytes,
            "alarms": self.log.alarms(),
        }

    async def _now(self) -> list[tuple[Any, ...]]:
        found = await self.stats()
        sound = {call["call_id"]: _inbound(call["stats"]) for call in found["calls"]}
        now = []
        for bystander in self._bystanders:
            heard = await bystander.next()
            now.append((heard, sound.get(heard.call), bystander.complaint()))
        return now


def _inbound(stats: list[dict[str, Any]]) -> tuple[int, int]:
    for row in stats:
        if row["type"] == "inbound-rtp" and row.get("kind") == "audio":
            return int(row["totalSamplesReceived"]), int(row["concealedSamples"])
    return 0, 0


def _loss(before: tuple[Any, ...], after: tuple[Any, ...]) -> Loss:
    seconds = after[0].at_s - before[0].at_s
    heard = 100 * (after[0].heard_s - before[0].heard_s) / seconds if seconds else 0.0
    concealed = 100.0
    if before[1] and after[1] and after[1][0] > before[1][0]:
        concealed = 100 * (after[1][1] - before[1][1]) / (after[1][0] - before[1][0])
    received = 2 * (after[0].packets - before[0].packets) / seconds if seconds else 0.0
    return Loss(
        seconds=round(seconds, 1),
        heard_percent=round(heard, 2),
        received_percent=round(received, 2),
        concealed_percent=round(concealed, 2),
        packets_lost=after[0].lost - before[0].lost,
        over=after[2],
    )


@contextlib.asynccontextmanager
async def attacked(calls: int) -> AsyncIterator[Attacked]:
    """A server that wants a key, with so many calls under way."""
    with tempfile.TemporaryDirectory(prefix="fa") as folder:
        path = Path(folder, "log")
        await asyncio.to_thread(path.touch)
        options = ("--set", f"auth.key={KEY}", "--set", "calls.max_per_remote=1000")
        server = Serving(*options, environment={"TMPDIR": folder}, log=path)
        await asyncio.to_thread(server.__enter__)
        bystanders: list[Bystander] = []
        try:
            url = server.url.split("?")[0]
            placing = (Bystander.call(url, "--key", KEY, "--story") for _ in range(calls))
            bystanders += await asyncio.gather(*placing)
            yield Attacked(server, Log(path), bystanders)
        finally:
            for bystander in bystanders:
                await bystander.close()
            await asyncio.to_thread(server.stop)
