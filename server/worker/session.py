"""A session: one conversation, its engine and its end, whatever connects the client.

What is said is the business of `server.worker.conversation` and `server.worker.commands`; how it
reaches the client that of a transport.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from engine.ipc import protocol as p
from engine.ipc.engine_client import EngineClient, EngineFull, EngineGone, EngineSessionLink
from engine.ipc.patience import TICK_S
from server.config import Config
from server.control import AddItem, CallStats, EngineAddress, SlotReleased, SlotWanted
from server.endings import FAILURES, REASONS, has_ended
from server.engine_links import EngineLinks
from server.worker.audience import Audience
from server.worker.commands import SessionCommands, engine_unavailable
from server.worker.conversation import Conversation
from server.worker.engine_settings import abilities_of, mode_of
from server.worker.engine_way import EngineWay
from server.worker.in_force import check_served
from server.worker.muted_rest import MutedRest
from server.worker.pause import Pause
from server.worker.silence_watch import SilenceWatch
from server.worker.transport import Connection, Transport
from signaling.errors import ProtocolError
from signaling.session import events as ev
from signaling.session.core import Watcher
from signaling.settings import SessionSettings

if TYPE_CHECKING:
    from server.worker.live_session import LiveSession

log = logging.getLogger(__name__)

END_ANNOUNCED_S = 30.0
"""So long before the longest duration is reached its end is announced,"""
END_ANNOUNCED_SHARE = 0.25
"""or this share of a short duration."""
OPEN_TRIES = 50
OPEN_RETRY_S = 0.2
SILENCE_WORDS = {
    "engine_silent": "No answer comes at the moment. Please stay, the call goes on if it can.",
    "engine_back": "The assistant is back.",
}
ENGINE_REASONS = {
    "goodbye": "goodbye",
    "context_limit": "context_limit",
    "shutdown": "server_shutdown",
    "closed": "hangup",
    "failed": "engine_failed",
}


class CallSession:
    """Owns one conversation: give it a transport, `run` until it returns the reason, `close`."""

    def __init__(
        self,
        call_id: str,
        settings: SessionSettings,
        config: Config,
        links: EngineLinks,
        tell_front: Callable[[p.Message], object] = lambda message: None,
    ) -> None:
        self.call_id = call_id
        self._tell_front = tell_front
        self.audience = Audience()
        self._way = EngineWay()
        self.conversation = Conversation(
            settings,
            audience=self.audience,
            to_engine=self._way.send,
            session_id=call_id,
            modes=config.calls.modes,
        )
        self.pause = Pause(
            config.calls.pause_keeps_s,
            self.audience,
            give_away=self._leave_slot,
            take_again=self._want_slot,
        )
        self.commands = SessionCommands(
            self.conversation, to_engine=self._way.send, end=self.end, pause=self.pause
        )
        self._rest = MutedRest(self.conversation, self.commands)
        self._skipped = 0
        """Samples of the user's sound that were not taken, while the session paused."""
        self._config = config
        self._links = links
        self._since = time.monotonic()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._assigned: asyncio.Future[EngineAddress] = asyncio.get_running_loop().create_future()
        self._place_in_queue: tuple[int, float | None] | None = None
        self._line: EngineSessionLink | None = None
        self._transport: Transport | None = None
        self.live: LiveSession | None = None
        """What a Live session has beside; set by that."""
        self.joined: set[Connection] = set()
        """Connections beside the client's own."""
        self._slot_wishes: asyncio.Queue[Literal["leave", "take"]] = asyncio.Queue(2)
        """One that is being followed at most, and what `pause` wishes behind it."""
        self._is_piece_lost = False
        self._last_pts = 0

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
        return not self.conversation.is_sent_ahead

    @property
    def reason(self) -> str | None:
        """Why the session ends; None while it goes on."""
        return self._ended.result() if self._ended.done() else None

    @property
    def is_served(self) -> bool:
        return self._line is not None

    # ------------------------------------------------------------------ life

    def carry(self, transport: Transport) -> None:
        """Give the connection of the session's client; once, before `run`."""
        self._transport = transport

    def configure(self, settings: SessionSettings) -> None:
        """Set what the client asks for when it starts, before an engine is."""
        assert not self.is_served, "a session that is served is updated"
        self.conversation.begin_with(settings)

    async def run(self) -> str:
        """Talk until the session is over; the reason."""
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(self._serve(), name="serve")
                reason = await self._ended
                serving.cancel()
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
        line, self._line = self._line, None
        self._way.close()
        try:
            if line is not None:
                await line.close()
        finally:
            connections: list[Connection] = [*self.joined]
            self.joined.clear()
            if self._transport is not None:
                connections.append(self._transport)
            closing = (connection.close() for connection in connections)
            for failed in await asyncio.gather(*closing, return_exceptions=True):
                if failed is not None:
                    log.error("closing call %s failed", self.call_id, exc_info=failed)

    async def _serve(self) -> None:
        """Wait for an engine's slot and open the line to it."""
        address = await self._assigned
        try:
            client = await self._links.get(address)
            self._line = await self._open_line(client)
        except (EngineGone, EngineFull, ValueError) as error:
            log.warning("call %s gets no engine: %s", self.call_id, error)
            self.end("engine_full" if isinstance(error, EngineFull) else "engine_gone")
            return
        self.conversation.abilities = abilities_of(client.welcome)
        longest_s = self._config.calls.max_duration_s
        self.conversation.expires_at = int(time.time() + longest_s)
        self.transport.served()
        for connection in tuple(self.joined):
            connection.served()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tend(), name="tend")
            tasks.create_task(self._run_down(longest_s), name="duration")
            tasks.create_task(self._follow_pauses(), name="pauses")

    # ------------------------------------------------------------------ long pauses

    def _leave_slot(self) -> None:
        self._slot_wishes.put_nowait("leave")

    def _want_slot(self) -> None:
        self._slot_wishes.put_nowait("take")

    async def _follow_pauses(self) -> None:
        """Give the slot away in a long pause, and take one again behind who waits."""
        while True:
            if await self._slot_wishes.get() == "leave":
                line, self._line = self._line, None
                self._way.close()
                if line is not None:
                    await line.close()
                self._assigned = asyncio.get_running_loop().create_future()
                self._place_in_queue = None
                self._tell_front(SlotReleased(self.call_id))
            else:
                self._tell_front(SlotWanted(self.call_id))
                await self._serve_again()

    async def _serve_again(self) -> None:
        self.conversation.recall()
        try:
            client = await self._links.get(await self._assigned)
            self._line = await self._open_line(client)
        except (EngineGone, EngineFull, ValueError) as error:
            log.warning("call %s gets no engine again: %s", self.call_id, error)
            self.end("engine_full" if isinstance(error, EngineFull) else "engine_gone")
            return
        self.conversation.abilities = abilities_of(client.welcome)
        if self.commands.is_hushed:
            self._way.send(p.ForceListen(self.call_id, True))
        self.pause.served()

    async def _run_down(self, longest_s: float) -> None:
        """End the call when it has been served for so long, not without a word before."""
        announced_s = min(END_ANNOUNCED_S, longest_s * END_ANNOUNCED_SHARE)
        await asyncio.sleep(longest_s - announced_s)
        left = f"{announced_s:.0f} s" if announced_s >= 1 else "a moment"
        message = f"This call ends in {left}: the longest duration of a call is then reached."
        self.notify("call_ends_soon", message)
        await asyncio.sleep(announced_s)
        self.end("max_duration")

    async def _tend(self) -> None:
        silence = SilenceWatch(self.conversation, self.commands)
        while True:
            await asyncio.sleep(TICK_S)
            self._way.catch_up()
            await self.transport.tend()
            self.pause.look()
            if not self.pause.is_on:
                silence.look()
                self._rest.look()

    async def _open_line(self, client: EngineClient) -> EngineSessionLink:
        """The slot may still be held by a call that the engine is just ending: ask again."""
        for attempt in itertools.count(1):
            asked = self.conversation.engine_config()
            try:
                line = await client.open(
                    self.call_id,
                    asked,
                    on_message=self._from_engine,
                    on_gone=self._engine_gone,
                    on_silence=self._engine_silent,
                )
            except EngineFull:
                if attempt == OPEN_TRIES:
                    raise
                await asyncio.sleep(OPEN_RETRY_S)
                continue
            self._way.open(line)
            # What was set meanwhile had no way to the engine.
            wanted = self.conversation.engine_config()
            if wanted != asked:
                self._way.send(p.UpdateSession(self.call_id, wanted))
            return line
        raise AssertionError("unreachable")

    async def _tell_end(self, reason: str) -> None:
        is_failure = reason in FAILURES
        if is_failure:
            await self.transport.settled()
        message = REASONS.get(reason, reason)
        self.audience.emit(ev.SessionOver(reason=reason, message=message, is_failure=is_failure))
        await self.transport.flushed()

    # ------------------------------------------------------------------ from the front

    def assign(self, engine: EngineAddress) -> None:
        if not self._assigned.done():
            self._assigned.set_result(engine)

    def queued(self, position: int, eta_s: float | None) -> None:
        self._place_in_queue = (position, eta_s)
        self.audience.emit(ev.QueueMoved(position=position, eta_s=eta_s))

    def pass_piece(self, piece: p.ItemPiece) -> None:
        """Hand the engine a piece of an item; a lost one is told when the item is complete."""
        is_lost = not self._way.send(piece)
        self._is_piece_lost = is_lost or (self._is_piece_lost and not piece.first)

    def add_item(self, message: AddItem) -> None:
        """Put an uploaded item into the conversation; raises `ProtocolError`."""
        if self.reason is not None:
            # The front hears of it a little later, and sends more until then.
            raise has_ended(self.reason)
        if self._is_piece_lost and not message.last.first:
            raise engine_unavailable()
        self.commands.place_item(message.item, message.previous_item_id, message.last)

    # ------------------------------------------------------------------ from transports

    def greet(self, watcher: Watcher) -> None:
        """Tell a connection that has just opened how things stand."""
        if self.is_served:
            try:
                check_served(self.conversation.settings, self.conversation.abilities)
            except ProtocolError as error:
                watcher.tell(ev.Refusal(error=error))
                self.end("unsupported")
                return
            self.conversation.greet(watcher)
        elif self._place_in_queue is not None and not self._assigned.done():
            position, eta_s = self._place_in_queue
            watcher.tell(ev.QueueMoved(position=position, eta_s=eta_s))

    def hear(self, pts: int, pcm: bytes) -> None:
        """Pass the user's sound on: 16 kHz, `pts` counts its samples."""
        if not self.takes_sound:
            self._skipped += len(pcm) // 2
            return
        pts -= self._skipped
        self._last_pts = pts
        self.conversation.input_pts = pts
        if self.commands.is_muted:
            pcm = bytes(len(pcm))
        self._way.send(p.AudioIn(self.call_id, pts, pcm))

    @property
    def takes_sound(self) -> bool:
        """Whether the engine hears anything: not in a pause, nor where a mute has made it rest.

        The timeline of a Live session goes on while its user is muted.
        """
        return not (self.pause.is_on or (self._rest.is_on and self.live is None))

    def see(self, width: int, height: int, rgb: bytes) -> None:
        """Pass a picture of the camera on; without pixels: it went off."""
        if self.pause.is_on:
            return
        self._way.send(p.ImageIn(self.call_id, self._last_pts, width, height, rgb))

    def notify(self, code: str, message: str) -> None:
        """Tell the client something that the session survives."""
        self.audience.emit(ev.Notice(code=code, message=message))

    # ------------------------------------------------------------------ engine

    def _from_engine(self, message: p.FromEngine) -> None:
        if isinstance(message, p.SessionEnded):
            self.end(ENGINE_REASONS[message.reason])
            return
        try:
            self.conversation.hear(self._way.numbered(message))
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this call only
            log.exception("call %s failed", self.call_id)
            self.end("internal_error")

    def _engine_silent(self, is_silent: bool) -> None:
        code = "engine_silent" if is_silent else "engine_back"
        self.notify(code, SILENCE_WORDS[code])

    def _engine_gone(self, reason: str) -> None:
        log.warning("call %s lost its engine: %s", self.call_id, reason)
        self.end("engine_gone")

    # ------------------------------------------------------------------ statistics

    async def stats(self) -> CallStats:
        """What `/api/stats` shows of this call."""
        rows: list[dict[str, Any]] = await self.transport.stats()
        return CallStats(
            call_id=self.call_id,
            state=self._state(),
            since_s=round(time.monotonic() - self._since, 1),
            mode=mode_of(self.conversation.settings),
            turns=self.turns,
            stats=rows,
            latency_ms=dict(self.conversation.latency_ms),
            kv_tokens=self.conversation.kv_tokens,
        )

    def _state(self) -> str:
        if self._ended.done():
            return "ending"
        if not self.transport.is_connected:
            return "connecting"
        if self.pause.is_on:
            return "paused"
        return "active" if self._assigned.done() else "queued"
