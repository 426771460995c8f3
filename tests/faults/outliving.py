"""Calls whose media worker and then whose engine is killed, and when they go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import omnicall.client as client
from tests.fuzz.oracles import Log
from tests.serving import Serving

Role = Literal["worker", "engine"]
TOLD: dict[Role, str] = {"worker": "session.continued", "engine": "session.resumed"}
PATIENCE_S = 40.0
OPTIONS = (
    *("media.workers=2", "engine.count=2", "engine.slots=8"),
    # However busy the machine is, no call is idle for long enough to end.
    *("chat.slots=0", "builtin.speech=basic", "calls.idle_s=0"),
)


class Survivor:
    """One call of our own client, which comes back by itself."""

    def __init__(self, call: client.Call, word: str) -> None:
        self.call = call
        self.word = word
        """What was said before."""
        self._told: dict[str, tuple[float, dict[str, Any]]] = {}
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        async for event in self.call.events:
            self._told[event["type"]] = time.monotonic(), event
            self._changed.set()

    async def hears(self, kind: str, since: float) -> tuple[float, dict[str, Any]]:
        """Seconds from `since` to the event of this type behind it, and the event."""
        while True:
            at, event = self._told.get(kind, (0.0, {}))
            if at > since:
                return at - since, event
            self._changed.clear()
            await self._changed.wait()


@contextlib.asynccontextmanager
async def _survivor(url: str, number: int) -> AsyncIterator[Survivor]:
    async with client.call(url) as call:
        survivor = Survivor(call, f"word{number}")
        following = asyncio.create_task(survivor.follow())
        await call.ask(f"{survivor.word}: what time is it")
        try:
            yield survivor
        finally:
            following.cancel()


async def _kill(server: Serving, role: Role, survivors: list[Survivor]) -> dict[str, Any]:
    """Kill the process of this role that has the most calls, and wait for those."""
    async with asyncio.timeout(PATIENCE_S):
        # A busy media worker tells of its calls a little late.
        while True:
            _, stats = await asyncio.to_thread(server.get, "/api/stats")
            of_call = {row["call_id"]: row[role] for row in stats["calls"]}
            if all(of_call.get(survivor.call.id) for survivor in survivors):
                break
    name = max(set(of_call.values()), key=list(of_call.values()).count)
    hit = [s for s in survivors if of_call[s.call.id] == name]
    pid = next(process["pid"] for process in stats["processes"] if process["name"] == name)
    since = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    row: dict[str, Any] = {"killed": name, "calls": len(hit), "after_s": [], "faults": []}

    async def go_on(survivor: Survivor) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                after_s, event = await survivor.hears(TOLD[role], since)
            row["after_s"].append(round(after_s, 2))
            async with asyncio.timeout(PATIENCE_S):
                answer = await survivor.call.ask("what time is it")
        except (TimeoutError, client.ClientError) as error:
            row["faults"].append(f"{survivor.word}: {type(error).__name__} {error}")
            return
        if role == "worker" and survivor.word not in str(event["items"]):
            row["faults"].append(f"{survivor.word} is forgotten")
        if not answer.text:
            row["faults"].append(f"{survivor.word} is not answered")

    await asyncio.gather(*(go_on(survivor) for survivor in hit))
    row["after_s"].sort()
    return row


async def run(calls: int) -> dict[str, Any]:
    """So many calls at two media workers and two engines, of which one each is killed."""
    with tempfile.TemporaryDirectory(prefix="fs") as folder:
        path = Path(folder, "log")
        await asyncio.to_thread(path.touch)
        log = Log(path)
        settings = [part for option in OPTIONS for part in ("--set", option)]
        server = Serving(*settings, environment={"TMPDIR": folder}, log=path)
        await asyncio.to_thread(server.__enter__)
        try:
            async with contextlib.AsyncExitStack() as stack:
                survivors = [
                    await stack.enter_async_context(_survivor(server.url, number))
                    for number in range(calls)
                ]
                rows: dict[str, dict[str, Any]] = {}
                for role in TOLD:
                    rows[role] = await _kill(server, role, survivors)
                    print(f"{role}: {rows[role]}", file=sys.stderr, flush=True)
        finally:
            await asyncio.to_thread(server.stop)
        alarms = [line for line in log.alarms() if "killed by signal 9" not in line]
        faults = [*alarms, *(fault for row in rows.values() for fault in row["faults"])]
        return {"calls": calls, **rows, "faults": faults}
