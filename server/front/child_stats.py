"""The newest statistics of the children. Front."""

from __future__ import annotations

import asyncio

from engine.ipc.supervision import EngineStats
from server.control import GetStats, WorkerStats
from server.front.supervisor import Supervisor

STATS_TIMEOUT_S = 1.0


class ChildStats:
    """Owns the newest statistics of each child, by its name."""

    def __init__(self) -> None:
        self.engines: dict[str, EngineStats] = {}
        self.workers: dict[str, WorkerStats] = {}
        self._asked = 0
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def forget(self, engine: str) -> None:
        """Forget an engine that is down."""
        self.engines.pop(engine, None)

    def counted(self, worker: str, stats: WorkerStats) -> None:
        """Take the answer of a media worker."""
        self.workers[worker] = stats
        waiting = self._waiting.pop(worker, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def refresh(self, supervisor: Supervisor) -> None:
        """Ask every media worker for fresh statistics; those that do not answer keep the old."""
        self._asked += 1
        waits = []
        for child in supervisor.of_role("worker"):
            if child.state == "ready":
                name = child.spec.name
                if name not in self._waiting:
                    self._waiting[name] = asyncio.get_running_loop().create_future()
                waits.append(self._waiting[name])
                supervisor.send(child, GetStats(self._asked))
        if waits:
            await asyncio.wait(waits, timeout=STATS_TIMEOUT_S)
