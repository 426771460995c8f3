"""The front's part of every call: which media worker, which engine slot, and when it is over."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from engine.ipc.patience import patiently
from engine.ipc.protocol import Message, Welcome
from engine.ipc.supervision import EngineStats, Progress, VoiceReport, WorkerGone
from server import handover
from server.config import ChatConfig
from server.control import (
    AssignEngine,
    CallConnected,
    CallEnded,
    CallPlaced,
    CallRefused,
    ClientAway,
    ClientBack,
    EngineAddress,
    EngineDown,
    HangUp,
    IceRefused,
    IceUpdated,
    ItemAdded,
    ItemRefused,
    KeepConversation,
    PlaceCall,
    PlaceStream,
    QueuePosition,
    ResumeCall,
    SlotNeeded,
    SlotReleased,
    SlotWanted,
    StreamPlaced,
    WorkerStats,
)
from server.endings import Endings
from server.front.broker import Broker
from server.front.chats import ChatDesk
from server.front.child_stats import ChildStats
from server.front.comebacks import Comebacks
from server.front.front_call import (
    FrontCall,
    check_key,
    check_share,
    least_loaded,
    restarted_worker,
)
from server.front.ice_updates import IceUpdates
from server.front.past_calls import PastCall, PastCalls
from server.front.setups import room_for
from server.front.starting import Starting
from server.front.supervisor import Observer, Supervised, Supervisor
from server.front.uploads import ItemDelivery
from server.front.voices import VoiceDesk
from signaling.errors import NoFreeSlot, ProtocolError
from signaling.http.auth import Principal
from signaling.http.calls import PlacedCall
from signaling.http.streams import PlacedStream
from signaling.http.trickle import IceAnswer
from signaling.live.session_config import CalledConfig
from signaling.realtime.client_items import ItemCreate
from signaling.session.items import MessageItem
from signaling.settings import SessionSettings
from signaling.socket_for import SocketFor

log = logging.getLogger(__name__)

PLACE_TIMEOUT_S = 10.0


class Front(Observer):
    """Owns the table of calls and the broker; hears what the children say."""

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
        show: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        chat = chat or ChatConfig(slots=0)
        self.broker = Broker(max_queue, clock)
        self.chats = ChatDesk(self.broker, chat, self.welcomes, self._assign, clock)
        self._chat_slots = chat.slots
        self._voices = voices
        self._call_slots = call_slots
        self.calls: dict[str, FrontCall] = {}
        self.stats = ChildStats()
        self.ended: dict[str, int] = {}
        self.placed_total = 0
        self.past = PastCalls()
        self._uploads = ItemDelivery()
        self._ice = IceUpdates()
        self._endings = Endings(clock)
        self._comebacks = Comebacks(grace_s, clock, self._over)
        self._hurried_grace_s = hurried_grace_s
        self._max_per_remote = max_per_remote
        self._max_connecting = max_connecting
        self._max_per_key = max_per_key
        self._show = show
        self._clock = clock
        self._supervisor: Supervisor | None = None
        self._is_draining = False

    def attach(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def supervisor(self) -> Supervisor:
        assert self._supervisor is not None, "attach a supervisor first"
        return self._supervisor

    @property
    def is_ready(self) -> bool:
        """At least one media worker and one engine can take a call."""
        ready = {c.spec.role for c in self.supervisor.children.values() if c.state == "ready"}
        return not self._is_draining and ready == {"worker", "engine"}

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
        self._is_draining = True
        self.chats.drain()

    # ------------------------------------------------------ signaling.http.calls.CallService

    async def place(
        self,
        sdp: str,
        session: SessionSettings,
        *,
        remote: str,
        callers: tuple[str, ...],
        owner: str | None = None,
        live: CalledConfig | None = None,
        is_resumable: bool = False,
    ) -> PlacedCall:
        """Have a media worker answer the offer; the engine's slot is leased at the connection.

        Raises `NoFreeSlot` when full, `ProtocolError` for an offer that cannot be
        served, `TimeoutError` when the worker does not answer.
        """
        call = await self._begin(remote, callers, owner, session)
        tag = self._ice.begin(call.call_id)
        token = self._comebacks.begin(call) if is_resumable else ""
        message = PlaceCall(call.call_id, sdp, session, remote, live, is_resumable)
        return PlacedCall(call.call_id, await self._placed(call, message), tag, token)

    async def place_stream(
        self,
        session: SessionSettings,
        *,
        remote: str,
        callers: tuple[str, ...],
        owner: str | None = None,
        door: str = "realtime",
        is_resumable: bool = False,
    ) -> PlacedStream:
        """Have a media worker expect a session's WebSocket. Raises as `place`."""
        call = await self._begin(remote, callers, owner, session)
        call.is_stream = True
        token = self._comebacks.begin(call) if is_resumable else ""
        await self._placed(call, PlaceStream(call.call_id, session, remote, door, is_resumable))
        return PlacedStream(call.call_id, token)

    def check_token(self, token: str) -> None:
        """Raise `ProtocolError` (404) for a token that was never given."""
        self._comebacks.check(token)

    async def resume(self, token: str, sdp: str) -> PlacedCall:
        """Have the offer of a client answered that has lost its connection; see `Comebacks.find`.

        The session goes on, on another media worker where its own died. Raises as `place`.
        """
        call = self._returning(token, is_stream=False)
        call_id = call.call_id
        if call.is_orphan:
            await self._adopt(call)
            kept = call.kept
            answer = await self._placed(
                call,
                PlaceCall(call_id, sdp, kept.settings, call.remote, is_resumable=True, kept=kept),
            )
        else:
            answer = await self._resumed(call, sdp)
        return PlacedCall(call_id, answer, self._ice.begin(call_id), token)

    async def resume_stream(self, token: str) -> PlacedStream:
        """The same where the client comes with a WebSocket, which can then be handed over."""
        call = self._returning(token, is_stream=True)
        if call.is_orphan:
            await self._adopt(call)
            kept = call.kept
            stream = PlaceStream(
                call.call_id, kept.settings, call.remote, is_resumable=True, kept=kept
            )
            await self._placed(call, stream)
        return PlacedStream(call.call_id, token)

    def _returning(self, token: str, *, is_stream: bool) -> FrontCall:
        call = self._comebacks.find(token, self.calls, self.why_closed)
        if call.is_stream != is_stream:
            raise ProtocolError(
                "resume: a session goes on over a connection of the kind that it began with.",
                code="unsupported_value",
                param="resume",
                status=409,
            )
        return call

    async def _adopt(self, call: FrontCall) -> None:
        """Give a call whose media worker died to another one."""
        call.placed = asyncio.get_running_loop().create_future()
        try:
            call.worker = await self._worker()
        except BaseException:
            call.placed.cancel()
            raise
        self._comebacks.drop(call.call_id)
        call.is_orphan, call.is_setting_up = False, True

    async def _resumed(self, call: FrontCall, sdp: str) -> str:
        """Wait for the worker's answer; without one the session waits as before."""
        call.placed = asyncio.get_running_loop().create_future()
        try:
            self.supervisor.send(call.worker, ResumeCall(call.call_id, sdp))
            return await patiently(call.placed, PLACE_TIMEOUT_S)
        finally:
            call.placed.cancel()

    def hand_over(self, told: SocketFor, descriptor: int) -> bool:
        """Give a copy of a socket to the worker of a session; False if that is impossible."""
        call = self.calls.get(told.call_id)
        way = None if call is None else call.worker.handover
        return way is not None and handover.send(way, told, descriptor)

    def check_owner(self, call_id: str, principal: Principal) -> None:
        """Raise `ProtocolError` unless there is such a call and the key may join it.

        To a stranger's key it is as if there were none.
        """
        call = self.calls.get(call_id)
        if call is None:
            raise self.why_closed(call_id)
        secret = f"secret:{principal.secret_id}"
        if principal.is_ephemeral and secret not in call.callers:
            raise ProtocolError(
                "A client secret joins no call but its own.", code="forbidden", status=403
            )
        if principal.role != "admin" and principal.key_id != call.owner:
            raise ProtocolError("There is no such call.", code="call_not_found", status=404)

    async def _begin(
        self,
        remote: str,
        callers: tuple[str, ...],
        owner: str | None,
        settings: SessionSettings,
    ) -> FrontCall:
        worker = await self._worker()
        check_key(owner, self.calls.values(), self._max_per_key)
        self._make_room(callers)
        call_id = f"rtc_{secrets.token_urlsafe(18)}"
        self.broker.offer(call_id)
        call = FrontCall(call_id, worker, remote, callers, self._clock(), owner, settings)
        self.calls[call_id] = call
        return call

    async def _placed(self, call: FrontCall, message: Message) -> str:
        """Wait for the worker's answer."""
        try:
            self.supervisor.send(call.worker, message)
            answer = await patiently(call.placed, PLACE_TIMEOUT_S)
        except BaseException:
            call.placed.cancel()
            self.supervisor.send(call.worker, HangUp(call.call_id, "not_answered"))
            # One whose media worker died waits on: another one may take it.
            if not (call.was_served and self._comebacks.orphan(call)):
                self._over(call.call_id, "not_answered")
            raise
        self.placed_total += 1
        return answer

    async def hang_up(self, call_id: str, reason: str) -> bool:
        """Return whether there was such a call."""
        call = self.calls.get(call_id)
        if call is None:
            return False
        if call.is_orphan:
            self._over(call_id, reason)
            return True
        return self.supervisor.send(call.worker, HangUp(call_id, reason))

    def is_lost(self, call_id: str) -> bool:
        """Return whether the call's connection is gone for good, so that only resuming helps."""
        call = self.calls.get(call_id)
        return call is not None and call.is_orphan

    def is_open(self, call_id: str) -> bool:
        """Return whether there is such a call."""
        return call_id in self.calls

    def why_closed(self, call_id: str) -> ProtocolError:
        """Return the error for a call that is not open (any more)."""
        return self._endings.why_closed(call_id)

    async def add_item(self, call_id: str, create: ItemCreate) -> MessageItem:
        """Put an item into a call's conversation; it without its files.

        Raises `ProtocolError`, `TimeoutError` when the worker does not answer.
        """
        call = self.calls.get(call_id)
        if call is None:
            raise self.why_closed(call_id)
        return await self._uploads.add(call_id, create, partial(self.supervisor.send, call.worker))

    async def update_ice(
        self, call_id: str, fragment: str, tags: frozenset[str] | None
    ) -> IceAnswer | None:
        """As `signaling.http.trickle.IceService` says."""
        call = self.calls.get(call_id)
        if call is None or not call.placed.done():
            raise self.why_closed(call_id)
        send = partial(self.supervisor.send, call.worker)
        return await self._ice.update(call_id, fragment, tags, send)

    async def _worker(self) -> Supervised:
        """The media worker for a new call; raises `NoFreeSlot`."""
        worker = None
        if not self._is_draining:
            workers = self.supervisor.of_role("worker")
            await restarted_worker(workers)
            worker = least_loaded(workers, self.calls.values())
        if worker is None or self._is_draining:
            raise NoFreeSlot(2.0, "The server is starting or stopping.")
        return worker

    def _make_room(self, callers: tuple[str, ...]) -> None:
        check_share(callers, self.calls.values(), self._max_per_remote)
        connecting = [call for call in self.calls.values() if call.is_setting_up]
        dropped = room_for(callers, connecting, self._max_connecting, self._clock())
        if dropped is not None:
            dropped.is_setting_up = False
            self.supervisor.send(dropped.worker, HangUp(dropped.call_id, "connect_timeout"))

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
        self._show(f"{child.spec.name}: ready in {self._clock() - child.started_at:.1f} s")
        if child.spec.role == "engine" and ready.welcome is not None:
            address = EngineAddress(child.spec.name, ready.endpoint)
            start_s = self._clock() - child.started_at
            slots = ready.welcome.slots
            # An engine may have room for fewer than it was asked for: calls come first.
            chat_slots = max(0, min(self._chat_slots, slots - self._call_slots))
            self.broker.engine_up(address, slots, start_s, chat_slots)
            self._assign()
            self.chats.queue.pump()
            if self._voices is not None:
                self._voices.engine_up(child.spec.name, partial(self.supervisor.send, child))

    def down(self, child: Supervised, reason: str) -> None:
        self._show(f"{child.spec.name}: {reason}")
        if child.spec.role == "worker":
            # First the engines, so that their slots are free when they are leased again.
            for engine in self.supervisor.of_role("engine"):
                self.supervisor.send(engine, WorkerGone(child.link_name))
            for call in [c for c in self.calls.values() if c.worker is child]:
                if self._comebacks.orphan(call):
                    self.broker.release(call.call_id)
                else:
                    self._over(call.call_id, "worker_gone")
            self._assign()
            return
        self.stats.forget(child.spec.name)
        if self._voices is not None:
            self._voices.engine_down(child.spec.name)
        self.broker.engine_down(child.spec.name)
        self._assign()
        self.chats.engine_down(child.endpoint, reason)
        if child.endpoint:
            for worker in self.supervisor.of_role("worker"):
                self.supervisor.send(worker, EngineDown(child.endpoint, reason))

    def message(self, child: Supervised, message: Any) -> None:
        match message:
            case CallPlaced() | StreamPlaced():
                sdp = message.sdp if isinstance(message, CallPlaced) else ""
                self._answered(message.call_id, sdp)
            case CallRefused():
                error = ProtocolError(
                    message.message, code=message.code, param=message.param, status=message.status
                )
                self._answered(message.call_id, error)
            case ItemAdded() | ItemRefused():
                self._uploads.answered(message)
            case IceUpdated() | IceRefused():
                self._ice.answered(message)
            case CallConnected():
                self._connected(message.call_id)
            case SlotReleased() | SlotWanted() | ClientAway() | ClientBack() | KeepConversation():
                self._changed(message)
            case CallEnded():
                self._told_end(child, message)
            case EngineStats() | VoiceReport():
                self._told_by_engine(child.spec.name, message)
            case WorkerStats():
                self.stats.counted(child.spec.name, message)

    def _told_by_engine(self, name: str, message: EngineStats | VoiceReport) -> None:
        if isinstance(message, VoiceReport):
            if self._voices is not None:
                self._voices.report(name, message)
            return
        self.stats.engines[name] = message
        if self.broker.set_capacity(name, message.capacity):
            self._assign()
        self.chats.queue.pump()

    def _answered(self, call_id: str, answer: str | ProtocolError) -> None:
        call = self.calls.get(call_id)
        if call is None or call.placed.done():
            return
        if isinstance(answer, str):
            call.placed.set_result(answer)
        else:
            call.placed.set_exception(answer)

    def _connected(self, call_id: str) -> None:
        call = self.calls.get(call_id)
        if call is None or not call.is_setting_up:
            return
        call.is_setting_up = False
        self._request(call)

    def _changed(
        self,
        message: SlotReleased | SlotWanted | ClientAway | ClientBack | KeepConversation,
    ) -> None:
        """A call gives its slot away, or needs one; its client is gone, or back."""
        call = self.calls.get(message.call_id)
        if call is None:
            return
        match message:
            case SlotWanted():
                self._request(call)
            case SlotReleased():
                if self.broker.release(call.call_id):
                    self._assign()
            case ClientAway():
                call.is_away, call.is_hurried = True, False
                lets_go_in_s = min(message.ends_in_s, self._hurried_grace_s)
                self.broker.away(call.call_id, lets_go_in_s)
                self._assign()
            case ClientBack():
                call.is_away = False
                self.broker.back(call.call_id)
            case KeepConversation():
                call.kept = message.kept

    def _request(self, call: FrontCall) -> None:
        call_id = call.call_id
        try:
            if call.was_served:
                place = self.broker.request_again(call_id)
            else:
                place = self.broker.request(call_id)
        except NoFreeSlot:
            self.supervisor.send(call.worker, HangUp(call_id, "engine_full"))
            return
        if isinstance(place, EngineAddress):
            self._give(call, place)
        else:
            self._assign()

    def _give(self, call: FrontCall, engine: EngineAddress) -> None:
        call.was_served, call.place = True, None
        self.supervisor.send(call.worker, AssignEngine(call.call_id, engine))

    def _told_end(self, child: Supervised, message: CallEnded) -> None:
        """A worker that did not answer in time may still tell of a call that waits for another."""
        call = self.calls.get(message.call_id)
        if call is not None and call.worker is child and not call.is_orphan:
            self._over(message.call_id, message.reason, message)

    def _over(self, call_id: str, reason: str, told: CallEnded | None = None) -> None:
        """`told`: by its media worker, where that still could."""
        call = self.calls.pop(call_id, None)
        if call is None:
            return
        self._comebacks.drop(call_id)
        self._keep(call, reason, told or CallEnded(call_id, reason, 0))
        self._endings.add(call_id, reason)
        why = self.why_closed(call_id)
        self._uploads.over(call_id, why)
        self._ice.over(call_id, why)
        if not call.placed.done():
            call.placed.set_exception(
                ProtocolError(why.message, code=why.code, type=why.type, status=503)
            )
        self.ended[reason] = self.ended.get(reason, 0) + 1
        if self.broker.release(call_id, self._clock() - call.since):
            self._assign()

    def _keep(self, call: FrontCall, reason: str, told: CallEnded) -> None:
        seconds = self._clock() - call.since
        self.past.add(
            PastCall(
                call_id=call.call_id,
                remote=call.remote,
                began_at=round(time.time() - seconds),
                seconds=round(seconds, 1),
                reason=reason,
                worker=call.worker.spec.name,
                engine=self.broker.engine_of(call.call_id) or "",
                mode=told.mode,
                turns=told.turns,
                latency_ms=told.latency_ms,
            )
        )

    def _assign(self) -> None:
        assigned = self.broker.assignments()
        for call_id, address in assigned:
            call = self.calls.get(call_id)
            if call is not None:
                self._give(call, address)
        queue = self.broker.waiting()
        for waiting in queue:
            call = self.calls.get(waiting.call_id)
            if call is not None and call.place != waiting:
                call.place = waiting
                self.supervisor.send(call.worker, QueuePosition(*waiting))
        if queue:
            self._hurry()

    def _hurry(self) -> None:
        """Have the calls whose clients are away know that others wait for their slots."""
        for call in self.calls.values():
            if call.is_away and not call.is_hurried:
                call.is_hurried = True
                self.supervisor.send(call.worker, SlotNeeded(call.call_id))
