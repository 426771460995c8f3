"""The front: hears what the children say, and has who it concerns act on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from engine.ipc.protocol import Welcome
from engine.ipc.supervision import EngineStats, Progress, VoiceReport, WorkerGone
from server.config import ChatConfig
from server.control import (
    CallStands,
    CallsTold,
    ClientAway,
    ClientBack,
    EngineAddress,
    EngineDown,
    KeepConversation,
    SlotReleased,
    SlotWanted,
    WorkerStats,
)
from server.front.broker import Broker
from server.front.call_desk import CallDesk
from server.front.call_slots import CallSlots
from server.front.call_table import CallTable
from server.front.chats import ChatDesk
from server.front.child_stats import ChildStats
from server.front.media_workers import MediaWorkers
from server.front.starting import Starting
from server.front.supervisor import Observer, Supervised, Supervisor
from server.front.takeover import Takeover
from server.front.voices import VoiceDesk

FRONTS_BEFORE = 10


class Front(Observer):
    """Puts the table of calls, the broker and the desks together."""

    def __init__(
        self,
        *,
        max_queue: int,
        max_per_remote: int,
        max_connecting: int,
        max_per_key: int = 0,
        grace_s: float = 30.0,
        hurried_grace_s: float = 10.0,
        chat: ChatConfig | None = None,
        call_slots: int = 0,
        voices: VoiceDesk | None = None,
        resume_secret: bytes = b"",
        life: int = 1,
        show: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        chat = chat or ChatConfig(slots=0)
        self.broker = Broker(max_queue, clock)
        self.calls = CallTable(clock)
        self.stats = ChildStats()
        self._workers = MediaWorkers()
        self._slots = CallSlots(self.broker, self.calls, self._workers, hurried_grace_s)
        self.desk = CallDesk(
            *(self.calls, self.broker, self._slots, self._workers),
            max_per_remote=max_per_remote,
            max_connecting=max_connecting,
            max_per_key=max_per_key,
            grace_s=grace_s,
            resume_secret=resume_secret,
            clock=clock,
        )
        self.chats = ChatDesk(
            *(self.broker, chat, self.welcomes, self._slots.assign, clock), name=f"front#{life}"
        )
        self.life = life
        """1 for the first front."""
        self._takeover = Takeover(self.broker, self.calls)
        self._chat_slots = chat.slots
        self._voices = voices
        self._call_slots = call_slots
        self._show = show
        self._clock = clock

    def attach(self, supervisor: Supervisor) -> None:
        self._workers.attach(supervisor)
        self._takeover.expect([c for c in supervisor.children.values() if c.may_have_calls])

    async def take_over(self) -> None:
        """Learn what the front before has left; calls may be asked for afterwards."""
        await self._takeover.run(self._slots.assign)

    @property
    def supervisor(self) -> Supervisor:
        return self._workers.supervisor

    @property
    def is_ready(self) -> bool:
        """At least one media worker and one engine can take a call."""
        ready = {c.spec.role for c in self.supervisor.children.values() if c.state == "ready"}
        return not self._workers.is_draining and ready == {"worker", "engine"}

    def welcomes(self) -> list[Welcome]:
        """Return what each engine that is ready can do."""
        ready = (child.ready for child in self.supervisor.children.values())
        return [said.welcome for said in ready if said is not None and said.welcome is not None]

    def starting(self) -> Starting | None:
        """Return the start of the engine that was begun first; None when one is ready."""
        engines = self.supervisor.of_role("engine")
        if not engines or any(child.state == "ready" for child in engines):
            return None
        return Starting.of(min(engines, key=lambda child: child.started_at), self._clock())

    def drain(self) -> None:
        """Take no more calls."""
        self._workers.is_draining = True
        self.chats.drain()

    # -------------------------------------------------------------- supervisor.Observer

    def progress(self, child: Supervised, progress: Progress) -> None:
        """Show each step, of a long one each tenth."""
        before = child.progress
        if before is not None and before.text == progress.text:
            if (before.percent or 0) // 10 == (progress.percent or 0) // 10:
                return
        self._show(f"{child.spec.name}: {progress}")

    def up(self, child: Supervised) -> None:
        ready = child.ready
        assert ready is not None
        start_s = None if child.is_taken_over else self._clock() - child.started_at
        how = "taken over" if start_s is None else f"ready in {start_s:.1f} s"
        self._show(f"{child.spec.name}: {how}")
        if child.spec.role == "worker":
            self.desk.worker_up()
        if child.spec.role == "engine" and ready.welcome is not None:
            address = EngineAddress(child.spec.name, ready.endpoint)
            if child.is_taken_over:
                # Of fronts, too: one that died soon may not have told of the one before it.
                before = range(max(1, self.life - FRONTS_BEFORE), self.life)
                for name in (*self.supervisor.gone, *(f"front#{life}" for life in before)):
                    self.supervisor.send(child, WorkerGone(name))
            slots = ready.welcome.slots
            # An engine may have room for fewer than it was asked for: calls come first.
            chat_slots = max(0, min(self._chat_slots, slots - self._call_slots))
            self.broker.engine_up(address, slots, start_s, chat_slots)
            self._slots.assign()
            self.chats.queue.pump()
            if self._voices is not None:
                self._voices.engine_up(child.spec.name, partial(self.supervisor.send, child))
            self._takeover.told(child.spec.name)

    def down(self, child: Supervised, reason: str) -> None:
        self._show(f"{child.spec.name}: {reason}")
        self._takeover.told(child.spec.name)
        if child.spec.role == "worker":
            # First the engines, so that their slots are free when they are leased again.
            for engine in self.supervisor.of_role("engine"):
                self.supervisor.send(engine, WorkerGone(child.link_name))
            self.desk.worker_down(child)
            return
        self.stats.forget(child.spec.name)
        if self._voices is not None:
            self._voices.engine_down(child.spec.name)
        self.broker.engine_down(child.spec.name)
        self._slots.assign()
        self.chats.engine_down(child.endpoint, reason)
        if child.endpoint:
            for worker in self.supervisor.of_role("worker"):
                self.supervisor.send(worker, EngineDown(child.endpoint, reason))

    def message(self, child: Supervised, message: Any) -> None:
        match message:
            case SlotReleased() | SlotWanted() | ClientAway() | ClientBack() | KeepConversation():
                self._slots.changed(message)
            case EngineStats() | VoiceReport():
                self._told_by_engine(child.spec.name, message)
            case CallStands():
                self._stands(child, message)
            case CallsTold():
                self._takeover.told(child.spec.name)
            case WorkerStats():
                self.stats.counted(child.spec.name, message)
            case _:
                self.desk.hear(message)

    def _stands(self, child: Supervised, told: CallStands) -> None:
        """A call of the front before goes on under this one."""
        if told.call_id in self.calls:
            return
        call = self._takeover.adopt(child, told)
        self.desk.adopt(call, is_resumable=told.kept is not None)
        if told.away_s is not None:
            self._slots.changed(ClientAway(told.call_id, told.away_s))
        if told.wants_slot:
            self._slots.request(call)

    def _told_by_engine(self, name: str, message: EngineStats | VoiceReport) -> None:
        if isinstance(message, VoiceReport):
            if self._voices is not None:
                self._voices.report(name, message)
            return
        self.stats.engines[name] = message
        if self.broker.set_capacity(name, message.capacity):
            self._slots.assign()
        self.chats.queue.pump()
