"""A front whose children are on paper only: what it tells them is kept, what they say given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from engine.ipc.protocol import Message
from engine.ipc.supervision import EngineStats, Quantiles, Ready
from server.control import (
    AddItem,
    CallConnected,
    CallEnded,
    CallPlaced,
    CallStats,
    GetStats,
    HangUp,
    PlaceCall,
    WorkerStats,
)
from server.front.front import Front
from server.front.supervisor import ChildSpec, Supervised, Supervisor
from signaling.http.calls import PlacedCall
from signaling.settings import SessionSettings
from tests.engine.fakes import welcome
from tests.waiting import Clock, until

ANSWER = "v=0\r\nanswer\r\n"


class PaperSupervisor(Supervisor):
    """Its children become ready and die when the test says so."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.told: list[tuple[str, Message]] = []
        self.gone = ()
        self.children = {}
        for name in names:
            role: Any = name.partition("-")[0]
            spec = ChildSpec(role, name, "nothing", lambda generation, secret: b"", 1.0)
            self.children[name] = Supervised(spec)

    def send(self, child: Supervised, message: Message) -> bool:
        self.told.append((child.spec.name, message))
        return child.state == "ready"

    def of(self, kind: type) -> list[tuple[str, Any]]:
        return [(name, message) for name, message in self.told if isinstance(message, kind)]


def engine_stats(used: int = 1, *, capacity: int = 2) -> EngineStats:
    return EngineStats(
        slots=2,
        slots_used=used,
        capacity=capacity,
        unit_p99_ms=450.0,
        late_share=0.02,
        oldest_pending_ms=3.0,
        dropped_ms=4,
        units=5,
        stages_ms={"asr": Quantiles(5, 10.0, 20.0, 30.0)},
        cpu_s=1.234,
        rss_bytes=50_000_000,
        loop_lag_ms=0.5,
    )


def call_stats(call_id: str, **rtp: Any) -> CallStats:
    return CallStats(
        call_id=call_id,
        state="active",
        since_s=3.5,
        mode="full_duplex",
        turns=2,
        stats=[{"type": "inbound-rtp", "kind": "audio"} | rtp],
        latency_ms={"speech_stopped_to_audio": 420.0},
    )


def worker_stats(n: int = 1, calls: tuple[CallStats, ...] = ()) -> WorkerStats:
    return WorkerStats(
        n=n, cpu_s=2.0, rss_bytes=60_000_000, loop_lag_ms=1.5, tasks=9, calls=list(calls)
    )


class PaperFront:
    """A front with workers and engines of `slots` slots each, all ready unless told otherwise."""

    def __init__(
        self,
        *names: str,
        slots: int = 2,
        max_queue: int = 2,
        max_per_remote: int = 100,
        max_connecting: int = 400,
        ready: bool = True,
        is_second: bool = False,
        grace_s: float = 30.0,
    ) -> None:
        """`is_second`: the children are those of a front that died."""
        self.clock = Clock()
        self.shown: list[str] = []
        self.front = Front(
            max_queue=max_queue,
            max_per_remote=max_per_remote,
            max_connecting=max_connecting,
            grace_s=grace_s,
            resume_secret=b"the same in each life",
            life=2 if is_second else 1,
            show=self.shown.append,
            clock=self.clock,
        )
        self.supervisor = PaperSupervisor(names or ("engine-0", "worker-0"))
        for child in self.supervisor.children.values():
            child.is_taken_over = child.may_have_calls = is_second
        self.front.attach(self.supervisor)
        self._slots = slots
        if ready:
            for name in self.supervisor.children:
                self.up(name)

    def __getitem__(self, name: str) -> Supervised:
        return self.supervisor.children[name]

    def up(self, name: str) -> None:
        child = self[name]
        child.generation += not child.is_taken_over
        child.state, child.pid = "ready", 1000 + child.generation
        child.started_at = self.clock.now - 1.5
        is_engine = child.spec.role == "engine"
        child.endpoint = f"ipc:///{name}.{child.generation}" if is_engine else ""
        said = welcome(self._slots) if is_engine else None
        child.ready = Ready(child.pid, child.endpoint, said)
        child.is_ready.set()
        self.front.up(child)

    def down(self, name: str, reason: str = "killed by signal 9") -> None:
        child = self[name]
        child.state, child.reason, child.is_taken_over = "backoff", reason, False
        child.restarts += 1
        child.is_ready.clear()
        child.ready = None
        self.front.down(child, reason)

    def says(self, name: str, *messages: Message) -> None:
        for message in messages:
            self.front.message(self[name], message)

    # ------------------------------------------------------------------ calls

    def begin(self, remote: str = "192.0.2.1") -> asyncio.Task[PlacedCall]:
        """Post an offer."""
        session = SessionSettings()
        return asyncio.create_task(
            self.front.desk.place("v=0\r\noffer\r\n", session, remote=remote, callers=(remote,))
        )

    def asked(self) -> Iterator[tuple[str, PlaceCall]]:
        """What the workers were asked to answer, in order."""
        yield from self.supervisor.of(PlaceCall)

    async def call(self, remote: str = "192.0.2.1", *, connects: bool = True) -> str:
        """Place a call that is answered; its id."""
        placing = self.begin(remote)
        await asyncio.sleep(0)
        name, asked = list(self.asked())[-1]
        self.says(name, self.placed(asked.call_id))
        call_id = (await placing).call_id
        if connects:
            self.connects(call_id)
        return call_id

    def placed(self, call_id: str) -> CallPlaced:
        call = self.front.calls.get(call_id)
        return CallPlaced(call_id, ANSWER, 0 if call is None else call.asked)

    def connects(self, call_id: str) -> None:
        call = self.front.calls[call_id]
        self.says(call.worker.spec.name, CallConnected(call_id, call.placing))

    def ends(self, call_id: str, reason: str = "hangup") -> None:
        call = self.front.calls[call_id]
        self.says(call.worker.spec.name, CallEnded(call_id, reason, 1, n=call.placing))

    def hung_up(self) -> list[tuple[str, str]]:
        return [(m.call_id, m.reason) for _, m in self.supervisor.of(HangUp)]

    async def added(self) -> AddItem:
        """The next item that a worker is asked to add, all of its pieces passed."""
        await until(lambda: self.supervisor.of(AddItem))
        asked: list[AddItem] = [message for _, message in self.supervisor.of(AddItem)]
        return asked[-1]

    def stats_asked(self) -> list[int]:
        return [message.n for _, message in self.supervisor.of(GetStats)]
