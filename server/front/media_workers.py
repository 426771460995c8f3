"""The media workers: which one a new call goes to, and what those that have calls are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence

from engine.ipc.protocol import Message
from server.control import HangUp
from server.front.front_call import FrontCall
from server.front.supervisor import Supervised, Supervisor
from signaling.errors import NoFreeSlot

RESTART_WAIT_S = 6.0
"""For how long an offer waits for a media worker that died to be back, rather than be refused."""


class MediaWorkers:
    """Owns whether new calls are taken; the supervisor has the processes."""

    def __init__(self) -> None:
        self.is_draining = False
        self._supervisor: Supervisor | None = None

    def attach(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def supervisor(self) -> Supervisor:
        assert self._supervisor is not None, "attach a supervisor first"
        return self._supervisor

    @property
    def num_ready(self) -> int:
        return sum(child.is_ready.is_set() for child in self.supervisor.of_role("worker"))

    async def pick(self, calls: Collection[FrontCall]) -> Supervised:
        """The media worker for a new call beside `calls`; raises `NoFreeSlot`."""
        worker = None
        if not self.is_draining:
            workers = self.supervisor.of_role("worker")
            await _restarted(workers)
            worker = _least_loaded(workers, calls)
        if worker is None or self.is_draining:
            raise NoFreeSlot(2.0, "The server is starting or stopping.")
        return worker

    def tell(self, call: FrontCall, message: Message) -> bool:
        """Send to the media worker of a call; return whether it could be."""
        return self.supervisor.send(call.worker, message)

    def hang_up(self, call: FrontCall, reason: str) -> bool:
        return self.tell(call, HangUp(call.call_id, reason))


async def _restarted(workers: Sequence[Supervised]) -> None:
    """While all media workers have died and come back, wait for the first, for a while."""
    is_any_ready = any(child.is_ready.is_set() for child in workers)
    if is_any_ready or not any(child.restarts for child in workers):
        return
    waits = [asyncio.ensure_future(child.is_ready.wait()) for child in workers]
    try:
        await asyncio.wait(waits, timeout=RESTART_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _least_loaded(workers: Sequence[Supervised], calls: Collection[FrontCall]) -> Supervised | None:
    """Return the media worker that is ready and has the fewest calls; None if none is ready."""
    # Without an engine the call waits in the queue: one that died is back in a moment.
    load = Counter(call.worker.spec.name for call in calls)
    ready = (child for child in workers if child.state == "ready")
    return min(ready, key=lambda child: load[child.spec.name], default=None)
