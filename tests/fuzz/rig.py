"""The server under a campaign, with a caller who must notice nothing."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.builtin.recogniser import EXTRA_IDLE_S
from tests.bystander import Bystander
from tests.fuzz.oracles import Baseline, Log, dead, leaks
from tests.processes import table
from tests.serving import Serving

SETTLE_S = EXTRA_IDLE_S + 5.0
"""Recognisers that were forked on demand, and their sockets, are kept for a while."""
FREE_S = 25.0
LIMITS = (
    *("calls.max_per_remote=1000", "calls.max_connecting=2000", "engine.slots=16"),
    *("voices.per_minute=1000", "calls.idle_s=0"),
)
"""Cases that never connect must not keep those out that come after them, and the bystander says
nothing for as long as a campaign takes."""


class Rig:
    """Owns the server's processes, its log, its folder and the bystander."""

    def __init__(
        self, *options: str, bystander: bool = True, environment: Mapping[str, str] | None = None
    ) -> None:
        # Short: the address of a Unix socket has 103 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="fz"))
        path = self.folder / "log"
        path.touch()
        self.log = Log(path)
        limits = [part for limit in LIMITS for part in ("--set", limit)]
        self.server = Serving(
            *limits,
            *options,
            environment={
                "TMPDIR": str(self.folder),
                "XDG_DATA_HOME": str(self.folder / "data"),
                **(environment or {}),
            },
            log=path,
        )
        self._wants_bystander = bystander
        self._bystander: Bystander | None = None
        self._baseline = Baseline([], {})

    async def __aenter__(self) -> Rig:
        await asyncio.to_thread(self.server.__enter__)
        # The first call loads what is loaded once.
        first = await Bystander.call(self.server.url)
        await first.close()
        await self._free()
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._bystander is not None:
            await self._bystander.close()
        await asyncio.to_thread(self.server.stop)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def bystander(self) -> Bystander | None:
        return self._bystander

    async def begin(self) -> None:
        """From here on everything counts."""
        self._baseline = await self._now()
        self.log.skip()
        if self._wants_bystander:
            self._bystander = await Bystander.call(self.server.url)

    async def complaints(self) -> list[str]:
        """What went wrong since the last call."""
        found = self.log.alarms()
        if self._bystander is not None and (complaint := self._bystander.complaint()):
            found.append(complaint)
        found += dead(self._baseline, Baseline(table(self.server.pid), {}))
        return found

    async def recover(self) -> None:
        """After a fault: wait until the server serves again, then begin anew."""
        if self._bystander is not None:
            await self._bystander.close()
            self._bystander = None
        await self._free()
        await self.begin()

    async def end(self) -> list[str]:
        """What is still held when everybody has hung up."""
        if self._bystander is not None:
            await self._bystander.close()
            self._bystander = None
        if not await self._free():
            return [f"slots or calls are still held after {FREE_S:g} s: {await self._open()}"]
        deadline = time.monotonic() + SETTLE_S
        while found := leaks(self._baseline, await self._now()):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(1.0)
        return found

    async def stats(self) -> dict[str, Any]:
        _, found = await asyncio.to_thread(self.server.get, "/api/stats")
        assert isinstance(found, dict), found
        return found

    async def _open(self) -> dict[str, Any]:
        found = await self.stats()
        calls = [call["state"] for call in found["calls"]]
        return {"calls": calls, "slots": found["slots"], "queue": found["queue"]["length"]}

    async def _free(self) -> bool:
        deadline = time.monotonic() + FREE_S
        while time.monotonic() < deadline:
            try:
                found = await self.stats()
            except OSError:
                found = {"ready": False}
            if found["ready"] and not found["calls"] and not found["slots"]["used"]:
                return True
            await asyncio.sleep(0.2)
        return False

    async def _now(self) -> Baseline:
        found = await self.stats()
        tasks = {p["name"]: p["tasks"] for p in found["processes"] if "tasks" in p}
        return Baseline(table(self.server.pid), tasks)
