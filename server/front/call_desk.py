"""Calls as HTTP asks for them: placed, resumed, joined, given files, and ended. Front."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import partial

from engine.ipc.patience import patiently
from engine.ipc.protocol import Message
from server import handover
from server.control import (
    CallConnected,
    CallEnded,
    CallPlaced,
    CallRefused,
    IceRefused,
    IceUpdated,
    ItemAdded,
    ItemRefused,
    PlaceCall,
    PlaceStream,
    ResumeCall,
    StreamPlaced,
)
from server.front.broker import Broker
from server.front.call_slots import CallSlots
from server.front.call_table import CallTable
from server.front.comebacks import Comebacks
from server.front.front_call import FrontCall, check_key, check_share
from server.front.ice_updates import IceUpdates
from server.front.media_workers import MediaWorkers
from server.front.setups import room_for
from server.front.supervisor import Supervised
from server.front.uploads import ItemDelivery
from signaling.errors import ProtocolError
from signaling.http.auth import Principal
from signaling.http.calls import PlacedCall
from signaling.http.streams import PlacedStream
from signaling.http.trickle import IceAnswer
from signaling.live.session_config import CalledConfig
from signaling.realtime.client_items import ItemCreate
from signaling.session.items import MessageItem
from signaling.settings import SessionSettings
from signaling.socket_for import SocketFor

PLACE_TIMEOUT_S = 10.0

Told = (
    CallPlaced
    | StreamPlaced
    | CallRefused
    | ItemAdded
    | ItemRefused
    | IceUpdated
    | IceRefused
    | CallConnected
    | CallEnded
)
"""What media workers say of calls, but for their slots."""


class CallDesk:
    """The `CallService` and the `StreamService` of `signaling.http`.

    Owns what is asked of calls and not answered yet, and who may come back to them.
    """

    def __init__(
        self,
        calls: CallTable,
        broker: Broker,
        slots: CallSlots,
        workers: MediaWorkers,
        *,
        max_per_remote: int,
        max_connecting: int,
        max_per_key: int,
        grace_s: float,
        resume_secret: bytes = b"",
        clock: Callable[[], float],
    ) -> None:
        """`grace_s`: for so long a call whose media worker died waits for its client."""
        self._calls = calls
        self._broker = broker
        self._slots = slots
        self._workers = workers
        self._uploads = ItemDelivery()
        self._ice = IceUpdates()
        self._comebacks = Comebacks(
            *(grace_s, clock, self.over, resume_secret), can_come=lambda: workers.num_ready > 0
        )
        self._max_per_remote = max_per_remote
        self._max_connecting = max_connecting
        self._max_per_key = max_per_key
        self._clock = clock

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
        message = PlaceCall(
            *(call.call_id, sdp, session, remote, live, is_resumable),
            callers=callers,
            owner=owner,
        )
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
        message = PlaceStream(
            *(call.call_id, session, remote, door, is_resumable), callers=callers, owner=owner
        )
        await self._placed(call, message)
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
                PlaceCall(
                    *(call_id, sdp, kept.settings, call.remote),
                    is_resumable=True,
                    kept=kept,
                    n=call.placing,
                    callers=call.callers,
                    owner=call.owner,
                ),
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
                *(call.call_id, kept.settings, call.remote),
                is_resumable=True,
                kept=kept,
                n=call.placing,
                callers=call.callers,
                owner=call.owner,
            )
            await self._placed(call, stream)
        return PlacedStream(call.call_id, token)

    def _returning(self, token: str, *, is_stream: bool) -> FrontCall:
        call = self._comebacks.find(token, self._calls)
        if call.is_stream != is_stream:
            raise ProtocolError(
                "resume: a session goes on over a connection of the kind that it began with.",
                code="unsupported_value",
                param="resume",
                status=409,
            )
        return call

    async def _adopt(self, call: FrontCall) -> None:
        """Give a call whose media worker died to another one. Raises as `place`, and where the
        call has ended while there was none."""
        placed = self._ask(call)
        try:
            worker = await self._workers.pick(self._calls.values())
            if placed.done():
                # It has ended, or the media worker was lost once more.
                await placed
        except BaseException:
            if not placed.cancel():
                placed.exception()
            raise
        call.worker, call.placing = worker, call.asked
        self._comebacks.drop(call.call_id)
        call.is_orphan, call.is_setting_up = False, True

    def _ask(self, call: FrontCall) -> asyncio.Future[str]:
        """From now on another answer is waited for; those to earlier questions are late."""
        call.asked += 1
        call.placed = asyncio.get_running_loop().create_future()
        return call.placed

    async def _resumed(self, call: FrontCall, sdp: str) -> str:
        """Wait for the worker's answer; without one the session waits as before."""
        placed = self._ask(call)
        try:
            self._workers.tell(call, ResumeCall(call.call_id, sdp, call.asked))
            return await patiently(placed, PLACE_TIMEOUT_S)
        finally:
            placed.cancel()

    def hand_over(self, told: SocketFor, descriptor: int) -> bool:
        """Give a copy of a socket to the worker of a session; False if that is impossible."""
        call = self._calls.get(told.call_id)
        way = None if call is None else call.worker.handover
        return way is not None and handover.send(way, told, descriptor)

    def check_owner(self, call_id: str, principal: Principal) -> None:
        """Raise `ProtocolError` unless there is such a call and the key may join it.

        To a stranger's key it is as if there were none.
        """
        call = self._calls.find(call_id)
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
        worker = await self._workers.pick(self._calls.values())
        check_key(owner, self._calls.values(), self._max_per_key)
        self._make_room(callers)
        call_id = f"rtc_{secrets.token_urlsafe(18)}"
        self._broker.offer(call_id)
        call = FrontCall(call_id, worker, remote, callers, self._clock(), owner, settings)
        self._calls.add(call)
        return call

    async def _placed(self, call: FrontCall, message: Message) -> str:
        """Wait for the worker's answer."""
        try:
            self._workers.tell(call, message)
            answer = await patiently(call.placed, PLACE_TIMEOUT_S)
        except BaseException:
            call.placed.cancel()
            self._workers.hang_up(call, "not_answered")
            # One whose media worker died waits on: another one may take it.
            if not (call.was_served and self._comebacks.orphan(call)):
                self.over(call.call_id, "not_answered")
            raise
        self._calls.placed_total += 1
        return answer

    async def hang_up(self, call_id: str, reason: str) -> bool:
        """Return whether there was such a call."""
        call = self._calls.get(call_id)
        if call is None:
            return False
        if call.is_orphan:
            self.over(call_id, reason)
            return True
        return self._workers.hang_up(call, reason)

    def is_lost(self, call_id: str) -> bool:
        """Return whether the call's connection is gone for good, so that only resuming helps."""
        call = self._calls.get(call_id)
        return call is not None and call.is_orphan

    def is_open(self, call_id: str) -> bool:
        """Return whether there is such a call."""
        return call_id in self._calls

    def why_closed(self, call_id: str) -> ProtocolError:
        """Return the error for a call that is not open (any more)."""
        return self._calls.why_closed(call_id)

    async def add_item(self, call_id: str, create: ItemCreate) -> MessageItem:
        """Put an item into a call's conversation; it without its files.

        Raises `ProtocolError`, `TimeoutError` when the worker does not answer.
        """
        call = self._calls.find(call_id)
        return await self._uploads.add(call_id, create, partial(self._workers.tell, call))

    async def update_ice(
        self, call_id: str, fragment: str, tags: frozenset[str] | None
    ) -> IceAnswer | None:
        """As `signaling.http.trickle.IceService` says."""
        call = self._calls.find(call_id)
        if not call.placed.done():
            raise self.why_closed(call_id)
        send = partial(self._workers.tell, call)
        return await self._ice.update(call_id, fragment, tags, send)

    def _make_room(self, callers: tuple[str, ...]) -> None:
        check_share(callers, self._calls.values(), self._max_per_remote)
        # Who comes back gives way to nobody: a conversation would be over.
        calls = self._calls.values()
        connecting = [call for call in calls if call.is_setting_up and not call.was_served]
        dropped = room_for(callers, connecting, self._max_connecting, self._clock())
        if dropped is not None:
            dropped.is_setting_up = False
            self._workers.hang_up(dropped, "connect_timeout")

    # ------------------------------------------------------------------ from media workers

    def hear(self, message: Told) -> None:
        match message:
            case CallPlaced() | StreamPlaced():
                sdp = message.sdp if isinstance(message, CallPlaced) else ""
                self._answer_placed(message.call_id, message.n, sdp)
            case CallRefused():
                error = ProtocolError(
                    message.message, code=message.code, param=message.param, status=message.status
                )
                self._answer_placed(message.call_id, message.n, error)
            case ItemAdded() | ItemRefused():
                self._uploads.answered(message)
            case IceUpdated() | IceRefused():
                self._ice.answered(message)
            case CallConnected():
                self._connected(message)
            case CallEnded():
                self._told_end(message)

    def adopt(self, call: FrontCall, *, is_resumable: bool) -> None:
        """Serve what is asked of a call of the front before, which the table has."""
        if is_resumable:
            self._comebacks.begin(call)
        if not call.is_stream:
            self._ice.adopt(call.call_id)

    def worker_up(self) -> None:
        """A media worker is ready."""
        if self._workers.num_ready == 1:
            self._comebacks.begin_anew()

    def worker_down(self, child: Supervised) -> None:
        """Let the calls of a media worker that died wait for their clients, or be over."""
        for call in self._calls.of_worker(child):
            if self._comebacks.orphan(call):
                self._broker.release(call.call_id)
            else:
                self.over(call.call_id, "worker_gone")
        self._slots.assign()

    def _answer_placed(self, call_id: str, n: int, answer: str | ProtocolError) -> None:
        call = self._calls.get(call_id)
        if call is None or call.asked != n or call.placed.done():
            return
        if isinstance(answer, str):
            call.placed.set_result(answer)
        else:
            call.placed.set_exception(answer)

    def _connected(self, message: CallConnected) -> None:
        call = self._calls.get(message.call_id)
        if call is None or call.placing != message.n or not call.is_setting_up:
            return
        call.is_setting_up = False
        self._slots.request(call)

    def _told_end(self, message: CallEnded) -> None:
        """A worker that did not answer in time may still tell of a call that waits for another, or
        that it was given again."""
        call = self._calls.get(message.call_id)
        if call is not None and call.placing == message.n and not call.is_orphan:
            self.over(message.call_id, message.reason, message)

    def over(self, call_id: str, reason: str, told: CallEnded | None = None) -> None:
        """`told`: by its media worker, where that still could."""
        call = self._calls.get(call_id)
        if call is None:
            return
        self._comebacks.drop(call_id)
        engine = self._broker.engine_of(call_id)
        why = self._calls.end(call, told or CallEnded(call_id, reason, 0), engine)
        self._uploads.over(call_id, why)
        self._ice.over(call_id, why)
        if not call.placed.done():
            call.placed.set_exception(
                ProtocolError(why.message, code=why.code, type=why.type, status=503)
            )
        self._slots.release(call, self._clock() - call.since)
