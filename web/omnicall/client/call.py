"""A call to a server: what is said and shown, and what comes back."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import aiohttp
from numpy.typing import NDArray

from omnicall.client.address import Address
from omnicall.client.backlog import Backlog
from omnicall.client.captions import Caption, Captioner
from omnicall.client.carrier import Callbacks, Carrier, Event, MakeCarrier, finds_turns, opening
from omnicall.client.comeback import waits
from omnicall.client.errors import CallOver, Declined, NoConnection
from omnicall.client.pictures import file_part
from omnicall.client.replies import PendingReplies, Reply
from omnicall.client.sound import RATE, Pcm, Unsaid, as_pcm, read_sound
from omnicall.client.tools import Toolbox
from omnicall.client.unarrived import Unarrived
from omnicall.client.websocket import WebSocketCarrier

logger = logging.getLogger(__name__)

MAX_EVENTS = 1_000
MAX_SOUND_S = 30
BUSY = frozenset({429, 500, 502, 503, 504})
"""Answers of a server that may take a client back later."""

Mode = Literal["full_duplex", "half_duplex", "turn_based"]
Transport = Literal["webrtc", "websocket"]

TURN_DETECTION: dict[Mode, dict[str, str] | None] = {
    "full_duplex": {"type": "semantic_vad"},
    "half_duplex": {"type": "server_vad"},
    "turn_based": None,
}


class Call:
    """Made by `omnicall.client.call`; a call in an `async with` block.

    `events` (of the server, as dicts), `captions` and `sound` (int16, mono, 24 kHz) are to be
    iterated, each by one consumer at a time. They hold the newest 1000, 1000 and 30 s that nobody
    has taken, and end with the call: by `CallOver` where that was not in order.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        transport: Transport | MakeCarrier,
        model: str,
        session: dict[str, Any],
        tools: Sequence[Callable[..., Any]],
        wait_s: float | None,
        tls: ssl.SSLContext | None,
        reconnect: bool,
    ) -> None:
        self.events: Backlog[Event] = Backlog(MAX_EVENTS)
        self.captions: Backlog[Caption] = Backlog(MAX_EVENTS)
        self.sound: Backlog[Pcm] = Backlog(MAX_SOUND_S * RATE, len)
        self.session: Event = {}
        """The session as the server last told it."""
        self.queue: tuple[int, float] | None = None
        """Place and estimated seconds while the call waits for a free engine."""
        self.ending: CallOver | None = None
        self._url, self._key, self._transport, self._model = url, key, transport, model
        self._tls = tls
        self._settings = session
        self._tools = Toolbox(tools)
        self._wait_s = wait_s
        self._voice = Unsaid()
        self._is_in_turn = False
        self._captioner = Captioner()
        self._pending = PendingReplies()
        self._served = asyncio.Event()
        self._stack = AsyncExitStack()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._carrier: Carrier | None = None
        self._reconnect = reconnect
        self._connected = asyncio.Event()
        self._unarrived = Unarrived()

    @property
    def id(self) -> str:
        """The server's id of this call."""
        known = self._carrier.call_id if self._carrier is not None else ""
        return known or str(self.session.get("id", ""))

    @property
    def carrier(self) -> Carrier:
        """What carries the call. Raises `CallOver` before and after it."""
        if self._carrier is None or self.ending is not None:
            raise self.ending or CallOver("hangup", "There is no call yet.")
        return self._carrier

    async def __aenter__(self) -> Call:
        try:
            connector = aiohttp.TCPConnector(ssl=self._tls or True)
            http = await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
            self._address = Address(http, self._url, self._key)
            self._carrier = self._make_carrier(self._address)
            self._stack.push_async_callback(self._hang_up)
            settings = opening(self._settings, self._carrier, self._tools.definitions)
            is_set = await self._carrier.open(settings)
            self._connected.set()
            self._start(self._carry(self._carrier))
            await self._until_served({} if is_set else settings)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    # ------------------------------------------------------------------ saying

    async def send(self, kind: str, **fields: Any) -> str:
        """Send any client event; its id, which an `error` names. Raises `CallOver`."""
        event = {"type": kind, "event_id": f"event_{secrets.token_hex(12)}", **fields}
        await self._deliver(lambda carrier: carrier.send(event))
        return str(event["event_id"])

    async def _deliver(self, send: Callable[[Carrier], Awaitable[None]]) -> None:
        """Send, while a connection is lost over the next one. Raises `CallOver`."""
        while True:
            await self._connected.wait()
            carrier = self.carrier
            try:
                await send(carrier)
            except CallOver as end:
                if not self._may_come_back(carrier, end):
                    raise
                if carrier is self._carrier:
                    self._connected.clear()
            else:
                return

    async def say(self, samples: NDArray[Any], rate: int = RATE) -> None:
        """Say mono sound, int16 or floats from -1 to 1; return a second before its end is sent."""
        await self._say(await asyncio.to_thread(as_pcm, samples, rate))

    async def say_file(self, path: str | Path) -> None:
        """The same with a file in any format that FFmpeg reads. Raises `ClientError`."""
        await self._say(await asyncio.to_thread(read_sound, path))

    async def _say(self, pcm: Pcm) -> None:
        if not (self._is_in_turn or finds_turns(self.session)):
            # The silence since the last turn is none of this one.
            await self.send("input_audio_buffer.clear")
        self._is_in_turn = True
        await self._voice.say(pcm)

    async def said(self) -> None:
        """Wait until all that was to be said is sent."""
        await self._voice.said()

    async def commit(self) -> Reply:
        """What was said is a turn, which is answered; in the mode `turn_based`."""
        await self.said()
        await asyncio.sleep(self.carrier.tail_s)
        self._is_in_turn = False
        await self.send("input_audio_buffer.commit")
        return await self._reply()

    async def answer(self) -> Reply:
        """Wait for the next answer to what was said; in the other modes. Raises as `ask`."""
        return await self._pending.reply()

    async def ask(self, text: str) -> Reply:
        """Write, and wait for the answer. Raises `RequestFailed`, `CallOver`."""
        return await self._reply({"type": "input_text", "text": text})

    async def show(self, file: str | Path | bytes, text: str = "") -> Reply:
        """Show a picture or video, and wait for the answer. Raises as `ask`, `ClientError`."""
        part = await asyncio.to_thread(file_part, file)
        return await self._reply(part, *([{"type": "input_text", "text": text}] if text else []))

    async def write(self, text: str) -> None:
        """Write, and wait for nothing."""
        await self._add_message({"type": "input_text", "text": text})
        await self.send("response.create")

    async def interrupt(self) -> None:
        """Stop the answer that is being given."""
        self.sound.clear()
        await self.carrier.interrupt()

    async def hush(self, on: bool = True) -> None:
        """While on, the model only listens; what it is saying is cut."""
        await self._switch("session.force_listen", on, on=on)

    async def mute(self, on: bool = True) -> None:
        """Let the model hear silence, or what is said again."""
        await self._switch("session.mute", on, on=on)

    async def pause(self) -> None:
        """Have neither sound nor pictures taken; the event `session.paused` tells for how long the
        place is kept."""
        await self._switch("session.pause", True)

    async def resume(self) -> None:
        """Go on after a pause; `session.resumed` tells what is remembered, and may take a wait."""
        self._unarrived.switch("session.pause", False)
        await self.send("session.resume")

    async def _switch(self, kind: str, is_on: bool, **fields: Any) -> None:
        self._unarrived.switch(kind, is_on, **fields)
        await self.send(kind, **fields)

    async def update(self, **settings: Any) -> Event:
        """Change settings; the session then. Raises `RequestFailed` with the field's name."""
        event_id = f"event_{secrets.token_hex(12)}"
        updated = self._pending.update(event_id)
        session = {"type": "realtime", **settings}
        await self.send("session.update", event_id=event_id, session=session)
        return await updated

    async def hang_up(self) -> None:
        """End the call; what was received can still be iterated."""
        self._end(CallOver("hangup", "The call was hung up."))
        if self._carrier is not None:
            await self._carrier.close()

    async def _add_message(self, *content: Event) -> None:
        item = self._unarrived.message(*content)
        await self._deliver(lambda carrier: carrier.add_item(item))

    async def _reply(self, *content: Event) -> Reply:
        if content:
            await self._add_message(*content)
        event_id = f"event_{secrets.token_hex(12)}"
        reply = self._pending.reply(event_id)
        await self.send("response.create", event_id=event_id)
        return await reply

    # ------------------------------------------------------------------ hearing

    def _on_event(self, event: Event) -> None:
        kind = event.get("type")
        if kind in ("session.created", "session.updated"):
            self.session = event.get("session") or {}
        if kind == "session.created":
            self.queue = None
            self._served.set()
        elif kind == "session.continued":
            self._start(self._tell_unarrived(event))
        elif kind == "conversation.item.added":
            self._unarrived.arrived(str(event["item"].get("id")))
        elif kind == "session.queued":
            self.queue = (int(event.get("position", 0)), float(event.get("eta_s") or 0))
        elif kind == "error":
            logger.debug("the server: %s", (event.get("error") or {}).get("message"))
        calls = self._tools.called_by(event)
        self._pending.apply(event, calls_functions=bool(calls))
        if calls:
            self._start(self._call_functions(calls))
        if (caption := self._captioner.apply(event)) is not None:
            self.captions.put(caption)
        self.events.put(event)

    async def _call_functions(self, calls: list[Event]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(self._tools.run(item)) for item in calls]
            for task in running:
                await self.send("conversation.item.create", item=task.result())
            await self.send("response.create")
        except CallOver:
            return

    # ------------------------------------------------------------------ the connection

    def _make_carrier(self, address: Address) -> Carrier:
        listener = Callbacks(self._on_event, self.sound.put)
        if callable(self._transport):
            return self._transport(address, self._voice, listener)
        if self._transport == "websocket":
            return WebSocketCarrier(address, self._model, self._voice, listener)
        # Who calls over a WebSocket waits for no aiortc.
        from omnicall.client.peer import PeerCarrier

        return PeerCarrier(address, self._voice, listener)

    async def _carry(self, carrier: Carrier) -> None:
        """Carry the call, over one connection after the other."""
        found: Carrier | None = carrier
        while found is not None:
            carrier = found
            try:
                await carrier.run()
            except CallOver as end:
                if not self._may_come_back(carrier, end):
                    self._end(end)
                    return
                self._connected.clear()
                found = await self._come_back(carrier, end)

    def _may_come_back(self, carrier: Carrier, end: CallOver) -> bool:
        is_lost = end.reason == "lost" and bool(carrier.token)
        return self._reconnect and is_lost and self.ending is None

    async def _come_back(self, lost: Carrier, end: CallOver) -> Carrier | None:
        """Find the session again over another connection; None: the call is over."""
        await lost.drop()
        for wait_s in waits():
            await asyncio.sleep(wait_s)
            carrier = self._make_carrier(self._address)
            try:
                await carrier.open({}, lost.token)
            except NoConnection:
                await carrier.drop()
                continue
            except Declined as refused:
                await carrier.drop()
                if refused.status in BUSY:
                    continue
                self._end(CallOver(refused.code or end.reason, str(refused)))
                return None
            except BaseException:
                await carrier.drop()
                raise
            if self.ending is not None:
                # Hung up while the server was answering.
                await carrier.close()
                return None
            self._carrier = carrier
            self._connected.set()
            return carrier
        self._end(end)
        return None

    async def _tell_unarrived(self, continued: Event) -> None:
        """Tell again what the lost connection did not bring to the server."""
        try:
            for kind, fields in self._unarrived.events():
                await self.send(kind, **fields)
            for item in self._unarrived.items(continued):
                await self.carrier.add_item(item)
            if self._pending.is_unasked(continued):
                await self.send("response.create")
        except CallOver:
            return

    async def _until_served(self, settings: Event) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                if settings:
                    await self.update(**settings)
                await self._served.wait()
        except TimeoutError as error:
            raise NoConnection(f"No engine was free within {self._wait_s:g} s.") from error
        if self.ending is not None:
            raise self.ending

    def _start(self, work: Any) -> None:
        assert self._group is not None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, end: CallOver) -> None:
        if self.ending is not None:
            return
        self.ending = end
        self._voice.close()
        self._pending.end(end)
        for backlog in (self.events, self.captions, self.sound):
            backlog.end(end)
        self._served.set()
        self._connected.set()

    async def _hang_up(self) -> None:
        await self.hang_up()
        for task in self._tasks:
            task.cancel()

    async def _close(self) -> None:
        # Not with the body's error: that is the body's, not one of the tasks here.
        await self._stack.aclose()
