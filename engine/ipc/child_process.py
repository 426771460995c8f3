"""The child's end of supervision, for engines and media workers alike.

A child says `Hello` and `Progress`, then once `Ready`; it answers `Ping` and stops at `Shutdown`.
It never outlives its parent: the kernel kills it when the parent dies (prctl(2), Linux), and
elsewhere the closed control link stops it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from engine.ipc.protocol import Message, Ping, Pong
from engine.ipc.supervision import Fatal, Progress, Shutdown, ToChild, credential
from engine.ipc.transport import Dialer

log = logging.getLogger(__name__)

LAG_INTERVAL_S = 0.1


class Child:
    """Owns the control link. `stop` is set when the process should end, in `grace_s` at most.

    Ctrl-C is left to the parent, which ends its children in order; SIGTERM ends this one in order.
    """

    def __init__(
        self,
        control: str,
        name: str,
        secret: str = "",
        *,
        inbound: Any = ToChild,
        on_message: Callable[[Any], None] | None = None,
    ) -> None:
        self.stop = asyncio.Event()
        self.grace_s = 0.0
        self._on_message = on_message
        self._dialer: Dialer[Any] = Dialer(
            control,
            inbound,
            name=credential(name, secret),
            on_message=self._receive,
            on_lost=self._lost,
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop.set)

    def send(self, message: Message) -> bool:
        return self._dialer.send(message)

    def progress(self, text: str) -> None:
        self.send(Progress(text))

    def fetching(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """How far a download is."""
        self.send(Progress(f"downloading {what}", done_bytes, total_bytes, is_download=True))

    def fatal(self, reason: str) -> None:
        self.send(Fatal(reason))

    def close(self) -> None:
        self._dialer.close()

    def _receive(self, message: Any) -> None:
        match message:
            case Ping():
                self.send(Pong(message.n))
            case Shutdown():
                self.grace_s = message.grace_s
                self.stop.set()
            case _ if self._on_message is not None:
                self._on_message(message)
            case _:
                log.warning("unexpected %s from the supervisor", type(message).__name__)

    def _lost(self, reason: str) -> None:
        log.error("the supervisor is gone (%s), ending", reason)
        self.stop.set()


class LoopLag:
    """Watches how late the event loop runs what is due; `worst_ms` since the last `take`."""

    def __init__(self) -> None:
        self._worst_ms = 0.0

    async def run(self) -> None:
        while True:
            due = time.monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._worst_ms = max(self._worst_ms, (time.monotonic() - due) * 1000)

    def take(self) -> float:
        worst_ms, self._worst_ms = self._worst_ms, 0.0
        return worst_ms


def process_usage() -> tuple[float, int]:
    """CPU seconds (user and system) and resident bytes of this process."""
    times = os.times()
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        resident = 0
    return times.user + times.system, resident
