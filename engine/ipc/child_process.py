"""The child's end of supervision, for engines and media workers alike.

A child says `Hello` and `Progress`, then once `Ready`; it answers `Ping` and stops at `Shutdown`.
It never outlives its parent: the kernel kills it when the parent dies (prctl(2), Linux). The
supervisor may be another process, which dies and has a successor: the child introduces itself to
that one again, and ends if none comes.
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
from engine.ipc.supervision import Fatal, Progress, Ready, Shutdown, ToChild, credential
from engine.ipc.transport import CLOSED, Dialer

log = logging.getLogger(__name__)

LAG_INTERVAL_S = 0.1
ALONE_S = 120.0
"""For so long a child goes on without a supervisor, whose successor may start on a busy machine."""


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
        on_again: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_again`: says what another supervisor has to know, behind the `Ready`."""
        self.stop = asyncio.Event()
        self.grace_s = 0.0
        self._control = control
        self._inbound = inbound
        self._credential = credential(name, secret)
        self._on_message = on_message
        self._on_again = on_again
        self._alone: asyncio.TimerHandle | None = None
        """Runs while there is no supervisor."""
        self._ready: Ready | None = None
        self._is_closed = False
        self._dialer = self._dial()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop.set)

    def _dial(self) -> Dialer[Any]:
        return Dialer(
            self._control,
            self._inbound,
            name=self._credential,
            on_message=self._receive,
            on_lost=self._lost,
        )

    def send(self, message: Message) -> bool:
        if isinstance(message, Ready):
            self._ready = message
        return self._dialer.send(message)

    def progress(self, text: str) -> None:
        self.send(Progress(text))

    def fetching(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """How far a download is."""
        self.send(Progress(f"downloading {what}", done_bytes, total_bytes, is_download=True))

    def fatal(self, reason: str) -> None:
        self.send(Fatal(reason))

    def close(self) -> None:
        self._has_company()
        self._is_closed = True
        self._dialer.close()

    def _receive(self, message: Any) -> None:
        self._has_company()
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
        if reason != CLOSED:
            log.error("the supervisor is gone (%s), ending", reason)
            self.stop.set()
        if self.stop.is_set():
            return
        log.warning("the supervisor is gone (%s); waiting for another", reason)
        loop = asyncio.get_running_loop()
        if self._alone is None:
            self._alone = loop.call_later(ALONE_S, self._give_up)
        # Not from within the link that is closed then.
        loop.call_soon(self._introduce)

    def _introduce(self) -> None:
        """Dial again. Whoever answers knows nothing of what was said before."""
        if self._is_closed:
            return
        self._dialer.close()
        self._dialer = self._dial()
        if self._ready is not None:
            self._dialer.send(self._ready)
            self._on_again()

    def _has_company(self) -> None:
        if self._alone is not None:
            self._alone.cancel()
            self._alone = None

    def _give_up(self) -> None:
        log.error("no other supervisor came, ending")
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
