"""A session: one conversation, its engine and its end, whatever connects the client.

What is said is the business of `server.worker.conversation` and `server.worker.commands`; how it
reaches the client that of a transport.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.ipc import protocol as p
from engine.ipc.patience import TICK_S
from server.config import Config
from server.control import (
    AddItem,
    CallEnded,
    CallStats,
    ClientAway,
    ClientBack,
    ConversationKept,
    KeepConversation,
)
from server.endings import FAILURES, REASONS, has_ended
from server.engine_links import EngineLinks
from server.recordings import FOLDER
from server.worker.absence import LEFT_S, Absence
from server.worker.audience import Audience
from server.worker.commands import SessionCommands
from server.worker.conversation import Conversation
from server.worker.duration_limit import run_down
from server.worker.engine_settings import mode_of
from server.worker.engine_slot import EngineSlot
from server.worker.engine_way import EngineWay
from server.worker.idle_limit import IdleLimit
from server.worker.in_force import check_served
from server.worker.keeping import Keeping
from server.worker.pause import Pause
from server.worker.recording import CallRecording
from server.worker.silence_watch import SilenceWatch
from server.worker.transport import Connection, Transport
from server.worker.user_input import UserInput
from signaling.errors import ProtocolError
from signaling.session import events as ev
from signaling.session.core import Watcher
from signaling.settings import SessionSettings

if TYPE_CHECKING:
    from server.worker.live_session import LiveSession

log = logging.getLogger(__name__)

UNSERVED_S = 10.0
"""For so long a client is awaited that is away before it was ever served."""
LOST = frozenset({"closed", "vanished", "failed", "connect_timeout"})
"""Ends of a connection that its client may not have meant."""
MIN_SHARES = 4
"""Of `recordings.max_mb` a call has a share: all that are open at once have no more than all."""
RECORDED = (
    "This call is recorded: what both sides say and write{pictures} is kept by whoever runs this "
    "server."
)
PICTURES = ", and now and then a picture of the camera or of what you share,"
ENGINE_LOST = (
    "The model stopped working. It begins anew and is told the words of this conversation; what it "
    "saw and how it sounded is forgotten."
)


class CallSession:
    """Owns one conversation: give it a transport, `run` until it returns the reason, `close`."""

    def __init__(
        self,
        call_id: str,
        settings: SessionSettings,
        config: Config,
        links: EngineLinks,
        tell_front: Callable[[p.Message], object] = lambda message: None,
        *,
        is_resumable: bool = False,
        kept: ConversationKept | None = None,
    ) -> None:
        """`is_resumable`: the client can come back over another connection. `kept`: how the
        conversation stood when its media worker died.
        """
        self.call_id = call_id
        self.is_resumable = is_resumable
        self._tell_front = tell_front
        self.audience = Audience()
        self._way = EngineWay()
        self.conversation = Conversation(
            kept.settings if kept is not None else settings,
            audience=self.audience,
            to_engine=self._way.send,
            session_id=call_id,
            modes=config.calls.modes,
        )
        if kept is not None:
            self.conversation.restore(kept.items)
        self.was_served = kept is not None
        """It has had an engine's slot, here or in another media worker."""
        self.slot = EngineSlot(
            *(self.conversation, self._way, links, tell_front),
            on_gone=self._engine_gone,
            on_again=self._served_again,
            end=self.end,
        )
        self._keeping = Keeping(self.conversation) if is_resumable else None
        self.pause = Pause(
            config.calls.pause_keeps_s,
            self.audience,
            give_away=self.slot.leave,
            take_again=self.slot.take,
        )
        self.absence = Absence(
            config.calls.grace_s,
            config.calls.hurried_grace_s,
            self.pause,
            give_up=self.end,
            told=self._tell_absence,
        )
        self.commands = SessionCommands(
            self.conversation, to_engine=self._way.send, end=self.end, pause=self.pause
        )
        self.input = UserInput(
            self.conversation, self.commands, self._way, self.pause, self.absence
        )
        self._config = config
        self.since = time.monotonic()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._transport: Transport | None = None
        self.live: LiveSession | None = None
        """What a Live session has beside; set by that."""
        self.joined: set[Connection] = set()
        """Connections beside the client's own."""
        self._tasks: asyncio.TaskGroup | None = None
        self._recording: CallRecording | None = None

    @property
    def transport(self) -> Transport:
        assert self._transport is not None, "carry() comes first"
        return self._transport

    @property
    def turns(self) -> int:
        return self.conversation.turns.count

    @property
    def has_track(self) -> bool:
        """Whether the client hears the answers over a track."""
        return not self.conversation.responses.is_sent_ahead

    @property
    def reason(self) -> str | None:
        """Why the session ends; None while it goes on."""
        return self._ended.result() if self._ended.done() else None

    # ------------------------------------------------------------------ life

    def carry(self, transport: Transport) -> None:
        """Give the connection of the session's client, in place of one that was lost."""
        before, self._transport = self._transport, transport
        if before is not None:
            self._drop(before)

    def configure(self, settings: SessionSettings) -> None:
        """Set what the client asks for when it starts, before an engine is."""
        assert not self.slot.is_open, "a session that is served is updated"
        self.conversation.begin_with(settings)

    async def run(self) -> str:
        """Talk until the session is over; the reason."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                if self.was_served:
                    # Its client has lost it, and is still to find it here.
                    self._begin_absence("vanished", None)
                serving = tasks.create_task(self._serve(), name="serve")
                awaiting = tasks.create_task(self._await_client(), name="absence")
                reason = await self._ended
                serving.cancel()
                awaiting.cancel()
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this call only, and says so
            log.exception("call %s failed", self.call_id)
            reason = "internal_error"
        await self._tell_end(reason)
        return reason

    def end(self, reason: str) -> None:
        """End the session soon; the first reason counts."""
        if not self._ended.done():
            self._ended.set_result(reason)

    async def close(self) -> None:
        """Free everything; the engine's slot first, so that the next call finds it. Idempotent."""
        try:
            await self.slot.close()
            if self._recording is not None:
                self._recording.note_rest(self.conversation.responses.spoken_items().values())
        finally:
            connections: list[Connection] = [*self.joined]
            self.joined.clear()
            if self._transport is not None:
                connections.append(self._transport)
            closing = (connection.close() for connection in connections)
            for failed in await asyncio.gather(*closing, return_exceptions=True):
                if failed is not None:
                    log.error("closing call %s failed", self.call_id, exc_info=failed)
            if self._recording is not None:
                await self._recording.close(self.reason or "")

    async def _serve(self) -> None:
        """Wait for an engine, and look after the session as long as there is one."""
        if not await self.slot.obtain():
            return
        longest_s = self._config.calls.max_duration_s
        self.conversation.expires_at = int(time.time() + longest_s)
        self.was_served = True
        self._record()
        self.transport.served()
        for connection in tuple(self.joined):
            connection.served()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tend(), name="tend")
            tasks.create_task(run_down(longest_s, self.audience, self.end), name="duration")
            tasks.create_task(self.slot.follow(), name="slot")
            if self._recording is not None:
                tasks.create_task(self._recording.run(), name="recording")

    def _record(self) -> None:
        """Keep the call from now on, where that is switched on."""
        wanted = self._config.recordings
        if wanted.enabled:
            folder = Path(self._config.data.dir) / FOLDER / self.call_id
            engine = self._config.engine
            share = max(MIN_SHARES, engine.count * engine.slots)
            most = wanted.max_mb * 1_000_000 // share
            recording = CallRecording(folder, self.call_id, most, has_pictures=wanted.pictures)
            self._recording = self.input.recording = recording
            self.conversation.responses.recording = recording
            self.audience.add(recording)

    # ------------------------------------------------------------------ a client that is away

    def away(self, transport: Transport) -> None:
        """Nothing is heard of the client any more; its connection may mend itself."""
        if transport is self._transport and not self.absence.is_on:
            self._begin_absence("vanished", None)

    def lost(self, transport: Transport, reason: str, *, is_over: bool = True) -> None:
        """The client's connection is over: the session waits for another one, if it may.

        `is_over`: so is the transport, which can take no other.
        """
        if transport is not self._transport:
            return
        may_wait = self.is_resumable and reason in LOST and self._tasks is not None
        if not may_wait or (reason == "connect_timeout" and not self.absence.is_on):
            self.end(reason)
            return
        if is_over:
            self._drop(transport)
        self._begin_absence(reason, LEFT_S if reason == "closed" else None)

    def back(self, transport: Transport) -> None:
        """The client is there, or there again."""
        if transport is self._transport:
            self.absence.end()

    def _begin_absence(self, reason: str, most_s: float | None) -> None:
        if not self.was_served:
            most_s = UNSERVED_S if most_s is None else min(most_s, UNSERVED_S)
        self.absence.begin(reason, most_s)

    def _drop(self, transport: Transport) -> None:
        """Close a connection, which is no longer the session's."""
        if self._tasks is not None and self.reason is None:
            self._tasks.create_task(_closed(transport, self.call_id), name="close")

    def _tell_absence(self, ends_in_s: float | None) -> None:
        if ends_in_s is None:
            self._tell_front(ClientBack(self.call_id))
        else:
            self._tell_front(ClientAway(self.call_id, ends_in_s))

    async def _await_client(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.absence.look()

    def kept_now(self) -> ConversationKept | None:
        """How the conversation stands, where its client can come back."""
        return None if self._keeping is None else self._keeping.now()

    def slot_needed(self) -> None:
        """Others wait for a slot; one that is still to come is nobody's to give up."""
        if self.slot.is_open:
            self.absence.hurry()

    async def _tend(self) -> None:
        silence = SilenceWatch(self.conversation, self.commands)
        idle = IdleLimit(self._config.calls.idle_s, self.conversation, self.end)
        while True:
            await asyncio.sleep(TICK_S)
            self._way.catch_up()
            if self._keeping is not None and (news := self._keeping.news()) is not None:
                self._tell_front(KeepConversation(self.call_id, news))
            if not self.absence.is_on:
                await self.transport.tend()
            self.pause.look()
            if not self.input.is_resting:
                silence.look()
                idle.look()
                self.input.look()
            else:
                idle.rest()

    async def _tell_end(self, reason: str) -> None:
        is_failure = reason in FAILURES
        if is_failure:
            await self.transport.settled()
        message = REASONS.get(reason, reason)
        self.audience.emit(ev.SessionOver(reason=reason, message=message, is_failure=is_failure))
        await self.transport.flushed()

    def add_item(self, message: AddItem) -> None:
        """Put an uploaded item into the conversation; raises `ProtocolError`."""
        if self.reason is not None:
            # The front hears of it a little later, and sends more until then.
            raise has_ended(self.reason)
        self.input.place_item(message)

    # ------------------------------------------------------------------ from transports

    def greet(self, watcher: Watcher, *, comes_back: bool = False) -> None:
        """Tell a connection that has just opened how things stand; `comes_back`: its client was
        here before, over another one."""
        if comes_back and self.conversation.abilities is not None:
            self.conversation.greet(watcher)
            self._tell_recorded(watcher)
            self.conversation.retell(watcher)
            if self.pause.is_on:
                watcher.tell(self.pause.told())
        elif self.slot.is_open:
            try:
                check_served(self.conversation.settings, self.conversation.abilities)
            except ProtocolError as error:
                watcher.tell(ev.Refusal(error=error))
                self.end("unsupported")
                return
            self.conversation.greet(watcher)
            self._tell_recorded(watcher)
        if self.slot.place is not None:
            watcher.tell(self.slot.place)

    def _tell_recorded(self, watcher: Watcher) -> None:
        if self._recording is not None:
            if self._config.recordings.pictures:
                code, pictures = "recorded_pictures", PICTURES
            else:
                code, pictures = "recorded", ""
            watcher.tell(ev.Notice(code=code, message=RECORDED.format(pictures=pictures)))

    def notify(self, code: str, message: str) -> None:
        """Tell the client something that the session survives."""
        self.audience.emit(ev.Notice(code=code, message=message))

    # ------------------------------------------------------------------ from the engine's slot

    def _engine_gone(self) -> None:
        if self.reason is not None:
            return
        if self.live is not None:
            # That protocol has no word for a model that has forgotten what it heard.
            self.end("engine_gone")
            return
        if not self.slot.lost():
            self.end("engine_gone")
            return
        self.conversation.engine_lost()
        self.notify("engine_lost", ENGINE_LOST)
        self.pause.lost_slot()
        if not self.absence.is_on:
            self.pause.need_slot()

    def _served_again(self) -> None:
        if self.commands.is_hushed:
            self._way.send(p.ForceListen(self.call_id, True))
        self.pause.served()

    # ------------------------------------------------------------------ statistics

    async def stats(self) -> CallStats:
        """What `/api/stats` shows of this call."""
        rows: list[dict[str, Any]] = await self.transport.stats()
        return CallStats(
            call_id=self.call_id,
            state=self._state(),
            since_s=round(time.monotonic() - self.since, 1),
            mode=mode_of(self.conversation.settings),
            turns=self.turns,
            stats=rows,
            latency_ms=dict(self.conversation.latency_ms),
            kv_tokens=self.conversation.kv_tokens,
        )

    def told_end(self, reason: str) -> CallEnded:
        """What the front hears of the call's end."""
        latency_ms = dict(self.conversation.latency_ms)
        mode = mode_of(self.conversation.settings)
        return CallEnded(self.call_id, reason, self.turns, mode, latency_ms)

    def _state(self) -> str:
        if self._ended.done():
            return "ending"
        if self.absence.is_on:
            return "away"
        if not self.transport.is_connected:
            return "connecting"
        if self.pause.is_on:
            return "paused"
        return "active" if self.slot.is_assigned else "queued"


async def _closed(transport: Transport, call_id: str) -> None:
    """Close what was the connection of a session that goes on."""
    try:
        await transport.close()
    except Exception:  # noqa: BLE001 - the boundary: the session has another one, or waits for it
        log.exception("closing a connection of call %s failed", call_id)
