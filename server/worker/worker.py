"""A media worker process: peer connections, sound and pictures of its calls. No torch in here."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import uvloop
from msgspec.structs import replace

from engine.ipc.child_process import Child, LoopLag, process_usage
from engine.ipc.cycles import CycleCollector
from engine.ipc.lifeline import OOM_WORKER, die_with_parent, go_before_parent
from engine.ipc.logs import log_to
from engine.ipc.supervision import Ready
from media.clock import Ticker
from media.wallclock import measure_with_monotonic_clock
from server import handover
from server.config import Config, MediaConfig
from server.control import (
    AddItem,
    AssignEngine,
    CallConnected,
    CallEnded,
    CallPlaced,
    CallRefused,
    CallStats,
    CallsTold,
    EngineDown,
    GetStats,
    HangUp,
    IceRefused,
    IceUpdated,
    ItemAdded,
    ItemRefused,
    PassPiece,
    PlaceCall,
    PlaceStream,
    QueuePosition,
    ResumeCall,
    SlotNeeded,
    StreamPlaced,
    ToWorker,
    UpdateIce,
    WorkerConfig,
    WorkerStats,
)
from server.engine_links import EngineLinks
from server.worker.joining import join
from server.worker.live_session import LiveSession
from server.worker.live_stream import LiveStream
from server.worker.peer_transport import PeerTransport
from server.worker.session import CallSession
from server.worker.standing import Standing
from server.worker.stream_transport import StreamTransport
from signaling.errors import ProtocolError
from signaling.ice import IceSettings
from signaling.ice_servers import TurnLogin, parse_url
from signaling.socket_for import SocketFor

log = logging.getLogger(__name__)

ToSession = AssignEngine | QueuePosition | PassPiece | SlotNeeded | HangUp
VIDEO_THREADS = 2
END_TIMEOUT_S = 1.0
BETWEEN_STATS_S, MOST_STATS_S = 0.01, 0.4
"""From one call's statistics to the next, and for those of all; the front waits for a second."""
GATHER_S, RELAY_GATHER_S = 0.5, 3.0
"""How long an answer waits for STUN and TURN servers, and where there is nothing else."""


def ice_settings(media: MediaConfig) -> IceSettings:
    """The ICE part of the configuration."""
    ports = tuple(map(int, media.ports.split("-"))) if media.ports else None
    is_hidden = media.ice_transport_policy == "relay"
    return IceSettings(
        policy=media.ice_transport_policy,
        gather_timeout_s=RELAY_GATHER_S if is_hidden else GATHER_S,
        port_range=(ports[0], ports[1]) if ports else None,
        addresses=media.addresses,
        public_addresses=tuple(filter(None, (media.public_address, media.public_address_v6))),
        stun=tuple(map(parse_url, media.stun)),
        turn=tuple(map(parse_url, media.turn)),
        turn_login=TurnLogin(
            media.turn_user, media.turn_password, media.turn_secret, media.turn_lifetime_s
        ),
    )


class Worker:
    """Owns the sessions of this process and what they share: the tick, engine links, threads."""

    def __init__(
        self, told: WorkerConfig, config: Config, way: socket.socket | None = None
    ) -> None:
        """`way`: by which sockets come, see `server.handover`; None: none come."""
        self._config = config
        self._way = way
        self._ice = ice_settings(config.media)
        self._child = Child(
            *(told.control, told.name, told.secret),
            inbound=ToWorker,
            on_message=self._receive,
            on_again=self._tell_calls,
        )
        self._name = told.name
        self._sessions: dict[str, CallSession] = {}
        self._standings: dict[str, Standing] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._resuming: dict[str, asyncio.Task[None]] = {}
        self._ticker = Ticker()
        self._threads = ThreadPoolExecutor(VIDEO_THREADS, thread_name_prefix="video")
        self._lag = LoopLag()
        self._cycles = CycleCollector()
        self._tasks: asyncio.TaskGroup | None = None
        self._links: EngineLinks | None = None

    async def run(self) -> None:
        """Serve until told to stop; then tell every caller and end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._links = EngineLinks(self._name, tasks)
                lag = tasks.create_task(self._lag.run(), name="lag")
                cycles = tasks.create_task(self._cycles.run(), name="cycles")
                if self._way is not None:
                    asyncio.get_running_loop().add_reader(
                        self._way.fileno(), self._sockets_come, self._way
                    )
                self._child.send(Ready(os.getpid()))
                self._tell_calls()
                await self._child.stop.wait()
                for session in self._sessions.values():
                    session.end("server_shutdown")
                await self._all_ended()
                self._links.close()
                lag.cancel()
                cycles.cancel()
        finally:
            self._ticker.close()
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._child.close()

    async def _all_ended(self) -> None:
        calls = [task for task in self._calls if not task.done()]
        if calls:
            await asyncio.wait(calls, timeout=max(END_TIMEOUT_S, self._child.grace_s))

    def _receive(self, message: Any) -> None:
        match message:
            case PlaceCall() | PlaceStream():
                self._start(self._call(message), message.call_id)
            case ResumeCall():
                self._begin_resuming(message)
            case GetStats():
                self._spawn(self._report(message.n), "stats")
            case EngineDown():
                assert self._links is not None
                self._links.lost(message.endpoint, message.reason)
            case AddItem():
                self._child.send(self._add_item(message))
            case UpdateIce():
                self._spawn(self._update_ice(message), "ice")
            case AssignEngine() | QueuePosition() | PassPiece() | SlotNeeded() | HangUp():
                if message.call_id in self._sessions:
                    self._pass_on(message)
                else:
                    # The call may have been placed a moment ago, and its task not have begun.
                    asyncio.get_running_loop().call_soon(self._pass_on, message)

    def _tell_calls(self) -> None:
        """Another front is told of what this process has."""
        for call_id, session in self._sessions.items():
            if session.reason is None:
                self._child.send(self._standings[call_id].told(session))
        self._child.send(CallsTold())

    def _pass_on(self, message: ToSession) -> None:
        session = self._sessions.get(message.call_id)
        if session is not None:
            _tell(session, message)

    def _connected(self, standing: Standing) -> None:
        """The client is there, by whichever of its offers: the front can have it served."""
        if not standing.is_connected:
            standing.is_connected = True
            self._child.send(CallConnected(standing.call_id, standing.n))

    def _begin_resuming(self, message: ResumeCall) -> None:
        """The client has given up what it asked for before: only its latest offer counts."""
        call_id = message.call_id
        if call_id in self._standings:
            self._standings[call_id].asked = message.n
        if call_id in self._resuming:
            self._resuming[call_id].cancel()
        work = self._resume(message)
        task = self._resuming[call_id] = self._spawn(work, "resume")

        def done(task: asyncio.Task[None]) -> None:
            work.close()
            if self._resuming.get(call_id) is task:
                del self._resuming[call_id]

        task.add_done_callback(done)

    def _add_item(self, message: AddItem) -> ItemAdded | ItemRefused:
        call_id, item_id = message.call_id, message.item.id
        session = self._sessions.get(call_id)
        if session is None:
            gone = "There is no such call."
            return ItemRefused(call_id, item_id, 404, "call_not_found", gone)
        try:
            session.add_item(message)
        except ProtocolError as error:
            return ItemRefused(
                call_id, item_id, error.status, error.code, error.message, error.param
            )
        return ItemAdded(call_id, item_id)

    async def _update_ice(self, message: UpdateIce) -> None:
        call_id, n = message.call_id, message.n
        session = self._sessions.get(call_id)
        try:
            peer = None if session is None else session.transport
            if not isinstance(peer, PeerTransport):
                raise ProtocolError("There is no such call.", code="call_not_found", status=404)
            self._child.send(IceUpdated(call_id, n, await peer.update_ice(message.fragment)))
        except ProtocolError as error:
            self._child.send(IceRefused(call_id, n, error.status, error.code, error.message))
        except Exception:  # noqa: BLE001 - the boundary: a bug leaves the call as it was
            log.exception("ICE of call %s could not be updated", call_id)
            self._child.send(IceRefused(call_id, n, 500, "internal_error", "Internal error."))

    def _start(self, call: Coroutine[Any, Any, None], name: str) -> None:
        task = self._spawn(call, name)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._tasks is not None
        return self._tasks.create_task(_alone(work, name), name=name)

    async def _place(
        self, session: CallSession, place: PlaceCall | PlaceStream
    ) -> CallPlaced | StreamPlaced:
        """Make the way to the client; raises as `signaling.peer.Peer.answer` does."""
        connected = partial(self._connected, self._standings[place.call_id])
        if isinstance(place, PlaceStream):
            if place.door == "live":
                LiveStream(session, self._config, self._ticker, connected)
            else:
                StreamTransport(
                    *(session, self._config, self._ticker, self._threads, connected),
                    door=place.door,
                    comes_back=place.kept is not None,
                )
            return StreamPlaced(place.call_id, place.n)
        live = None
        if place.live is not None:
            phrases = self._config.live.delegate_when_said
            live = LiveSession(session, place.live, self._ticker, delegate_when_said=phrases)
        peer = PeerTransport(
            *(session, self._config, self._ice, self._ticker, self._threads),
            on_connected=connected,
            live=live,
            comes_back=place.kept is not None,
        )
        return CallPlaced(place.call_id, await peer.answer(place.sdp), place.n)

    async def _resume(self, message: ResumeCall) -> None:
        """Give a session another peer connection in place of the one that its client has lost."""
        call_id = message.call_id
        session = self._sessions.get(call_id)
        try:
            before = None if session is None or session.reason else session.transport
            if session is None or not isinstance(before, PeerTransport):
                raise ProtocolError("There is no such call.", code="call_not_found", status=404)
            peer = PeerTransport(
                *(session, self._config, self._ice, self._ticker, self._threads),
                on_connected=partial(self._connected, self._standings[call_id]),
                before=before,
            )
            try:
                answer = await peer.answer(message.sdp)
            except BaseException:
                await peer.close()
                raise
            self._child.send(CallPlaced(call_id, answer, message.n))
        except ProtocolError as error:
            self._refuse(message, error)
        except (TimeoutError, OSError) as error:
            log.warning("call %s cannot be resumed: %s", call_id, error)
            self._refuse(message, _unavailable())
        except Exception:  # noqa: BLE001 - the boundary: the session waits as before
            log.exception("call %s could not be resumed", call_id)
            self._refuse(message, ProtocolError("Internal error.", code="internal", status=500))

    def _sockets_come(self, way: socket.socket) -> None:
        """Take the sockets that the front hands over."""
        try:
            while (handed := handover.receive(way)) is not None:
                told, sock = handed
                self._spawn(self._accept(told, sock), "accept")
        except EOFError:
            asyncio.get_running_loop().remove_reader(way.fileno())

    async def _accept(self, told: SocketFor, sock: socket.socket) -> None:
        session = self._sessions.get(told.call_id)
        try:
            if told.role == "sideband":
                await join(session, sock, told)
            elif session is not None and isinstance(
                session.transport, StreamTransport | LiveStream
            ):
                await session.transport.accept(sock, told)
            else:
                sock.close()
        except OSError as error:
            log.info("a connection to session %s came to nothing: %s", told.call_id, error)
            sock.close()
        except Exception:  # noqa: BLE001 - the boundary: one connection only
            log.exception("a connection to session %s failed", told.call_id)
            sock.close()

    async def _call(self, place: PlaceCall | PlaceStream) -> None:
        """One call from its offer to its end; whatever happens, the front hears of the end."""
        assert self._links is not None
        end = CallEnded(place.call_id, "not_answered", 0)
        session: CallSession | None = None
        try:
            session = CallSession(
                *(place.call_id, place.session, self._config, self._links),
                self._child.send,
                is_resumable=place.is_resumable,
                kept=place.kept,
            )
            self._sessions[place.call_id] = session
            self._standings[place.call_id] = Standing(place)
            self._child.send(await self._place(session, place))
            end = session.told_end(await session.run())
        except ProtocolError as error:
            self._refuse(place, error)
        except (TimeoutError, OSError) as error:
            log.warning("call %s cannot be answered: %s", place.call_id, error)
            self._refuse(place, _unavailable())
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this call only
            log.exception("call %s failed", place.call_id)
            end = replace(end, reason="internal_error")
            self._refuse(place, ProtocolError("Internal error.", code="internal", status=500))
        finally:
            try:
                if session is not None:
                    await session.close()
            finally:
                # It may have been given to this process again meanwhile.
                if session is not None and self._sessions.get(place.call_id) is session:
                    del self._sessions[place.call_id], self._standings[place.call_id]
                self._cycles.ended()
                self._child.send(replace(end, n=place.n))

    def _refuse(self, place: PlaceCall | PlaceStream | ResumeCall, error: ProtocolError) -> None:
        self._child.send(
            CallRefused(
                *(place.call_id, error.status, error.code, error.message, error.param), place.n
            )
        )

    async def _report(self, n: int) -> None:
        calls = await stats_of(tuple(self._sessions.values()))
        cpu_s, rss_bytes = process_usage()
        self._child.send(
            WorkerStats(n, cpu_s, rss_bytes, self._lag.take(), len(asyncio.all_tasks()), calls)
        )


async def stats_of(
    sessions: Sequence[CallSession], sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> list[CallStats]:
    """Ask one after the other, a tick's share apart: together they would hold up the sound of every
    call, and all workers, which are asked at the same moment, the machine."""
    found = []
    pause_s = min(BETWEEN_STATS_S, MOST_STATS_S / max(1, len(sessions)))
    for session in sessions:
        found.append(await session.stats())
        await sleep(pause_s)
    return found


async def _alone(work: Coroutine[Any, Any, None], name: str) -> None:
    """A bug in what is done for one call, or for one question, ends nothing else."""
    try:
        await work
    except Exception:  # noqa: BLE001 - the boundary
        log.exception("%s failed", name)


def _unavailable() -> ProtocolError:
    return ProtocolError("The call could not be answered.", code="media_unavailable", status=503)


def _tell(session: CallSession, message: ToSession) -> None:
    match message:
        case AssignEngine():
            session.slot.assign(message.engine)
        case QueuePosition():
            session.slot.queued(message.position, message.eta_s)
        case PassPiece():
            session.input.pass_piece(message.piece)
        case SlotNeeded():
            session.slot_needed()
        case HangUp():
            session.end(message.reason)


def main() -> None:
    """Entry of the child: the arguments are the parent's pid and the descriptor by which sockets
    come, the configuration comes on stdin.
    """
    die_with_parent(int(sys.argv[1]))
    go_before_parent(OOM_WORKER)
    measure_with_monotonic_clock()
    told = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerConfig)
    config = msgspec.json.decode(told.config, type=Config)
    log_to(told.name, config.log.level, config.log.file, config.log.max_mb)

    way = socket.socket(fileno=int(sys.argv[2])) if len(sys.argv) > 2 else None
    if way is not None:
        way.setblocking(False)

    async def serve() -> None:
        await Worker(told, config, way).run()

    uvloop.run(serve())
