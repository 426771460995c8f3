"""Serve an engine's sessions to media workers: slots, routing, failures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from engine.admission import Headroom, Stages
from engine.base import EngineError, EngineSession, Send
from engine.ingest.messages import FromIngest, SoundHeard, SoundTaker, ToIngest
from engine.ipc.item_chunks import Joiner
from engine.ipc.patience import TICK_S
from engine.ipc.protocol import (
    CloseSession,
    Hello,
    ItemPiece,
    OpenSession,
    Ping,
    Pong,
    SessionConfig,
    SessionEnded,
    SessionMessage,
    SessionOpened,
    SessionRefused,
    SessionWarning,
    ToEngine,
    UnitDone,
    Welcome,
)
from engine.ipc.transport import Listener


class Slots:
    """A free list. Released rows go to its end, so that a row rests before its next use."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._owner: list[str | None] = [None] * count

    @property
    def count(self) -> int:
        return len(self._owner)

    @property
    def used(self) -> int:
        return self.count - len(self._free)

    def acquire(self, owner: str) -> int | None:
        """Return a row for `owner`, or None when all are occupied."""
        if not self._free:
            return None
        slot = self._free.pop(0)
        self._owner[slot] = owner
        return slot

    def release(self, slot: int) -> None:
        assert self._owner[slot] is not None, f"slot {slot} is not occupied"
        self._owner[slot] = None
        self._free.append(slot)


log = logging.getLogger(__name__)

PEER_SILENCE_S = 15.0
"""Longer than the supervisor's patience, which says so when a media worker is dead."""

MAX_GONE = 64
"""Names of dead media workers that are remembered: no two lives have the same."""
TURN_MS = 1_000
"""What stands for a unit's length in engines without units."""


class SessionMaker(Protocol):
    """Who opens sessions: the engine itself, or what stands in front of it."""

    def welcome(self, slots: int) -> Welcome: ...

    def open(self, session: str, slot: int, config: SessionConfig, send: Send) -> EngineSession:
        """As `engine.base.Engine.open`."""


class _Open(NamedTuple):
    session: EngineSession
    slot: int
    joiner: Joiner


class Host:
    """Owns the slots and the open sessions, keyed by the media worker's link and the session id."""

    def __init__(
        self,
        engine: SessionMaker,
        endpoint: str,
        slots: int,
        *,
        on_closed: Callable[[], None] = lambda: None,
        is_behind_ingest: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_closed` is told of the end of each session, once its slot is free.

        `is_behind_ingest`: who dials are the lines of an ingest process.
        """
        self._engine = engine
        self._on_closed = on_closed
        self.slots = Slots(slots)
        self.stages = Stages()
        unit_ms = engine.welcome(slots).unit_ms or TURN_MS
        self.headroom = Headroom(slots, unit_ms, clock)
        self.dropped_ms = 0
        self._open: dict[tuple[bytes, str], _Open] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._names: dict[bytes, str] = {}
        self._gone: deque[str] = deque(maxlen=MAX_GONE)
        self._listener: Listener[FromIngest] = Listener(
            endpoint,
            FromIngest if is_behind_ingest else ToEngine,
            on_message=self._receive,
            on_peer=self._welcome,
            clock=clock,
            silence_limit_s=PEER_SILENCE_S,
        )

    @property
    def endpoint(self) -> str:
        return self._listener.endpoint

    async def run(self) -> None:
        """Close the sessions of media workers that died, and stay reachable; until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self._listener.mend()
            for peer in self._listener.silent_peers():
                self._forget(peer, "a media worker fell silent")
            for peer in set(self._names) - set(self._listener.peers):
                # It sent what cannot be read, and takes us for gone since it was told so.
                self._forget(peer, "a media worker was refused")

    def worker_gone(self, name: str) -> None:
        """Close the sessions of a media worker that is known to be dead, also those that it asked
        for last and that come only now."""
        self._gone.append(name)
        for peer in [peer for peer, known in self._names.items() if known == name]:
            self._forget(peer, f"media worker {name} is gone")

    async def close(self, *, has_failed: bool = False) -> None:
        """Close every session, then free the endpoint. They are told, but not of a failure: by the
        end of the link their callers learn that another engine may go on with them.
        """
        for peer, session in tuple(self._open):
            self._end(peer, session)
            if not has_failed:
                told = SessionEnded(session, "shutdown", "the engine is stopping")
                self._listener.send(peer, told)
        if self._closing:
            await asyncio.wait(self._closing)
        self._listener.close()

    def _welcome(self, peer: bytes, hello: Hello) -> None:
        if hello.name in self._gone:
            self._forget(peer, f"media worker {hello.name} is gone")
            return
        log.info("media worker %s connected", hello.name)
        self._names[peer] = hello.name
        self._listener.send(peer, self._engine.welcome(self.slots.count))

    def _receive(self, peer: bytes, message: FromIngest) -> None:
        match message:
            case OpenSession():
                self._listener.send(peer, self._opened(peer, message))
            case CloseSession():
                self._end(peer, message.session, SessionEnded(message.session, "closed"))
            case Ping():
                self._listener.send(peer, Pong(message.n))
            case Hello():
                self._welcome(peer, message)
            case ItemPiece():
                self._join(peer, message)
            case _:
                self._handle(peer, message)

    def _opened(self, peer: bytes, message: OpenSession) -> SessionOpened | SessionRefused:
        session = message.session
        if (peer, session) in self._open:
            return SessionRefused(session, "duplicate", "this session is open already")
        slot = self.slots.acquire(session)
        if slot is None:
            return SessionRefused(
                session, "no_free_slot", f"all {self.slots.count} slots are in use"
            )
        try:
            opened = self._engine.open(session, slot, message.config, partial(self._send, peer))
        except EngineError as error:
            self.slots.release(slot)
            return SessionRefused(session, "unsupported", str(error))
        except Exception:  # noqa: BLE001 - the boundary: a bug costs this session only
            log.exception("opening session %s failed", session)
            self.slots.release(slot)
            return SessionRefused(session, "failed", "internal error of the engine")
        self._open[peer, session] = _Open(opened, slot, Joiner())
        return SessionOpened(session, slot)

    def _join(self, peer: bytes, piece: ItemPiece) -> None:
        entry = self._open.get((peer, piece.session))
        if entry is None:
            return
        try:
            item = entry.joiner.push(piece)
        except ValueError as error:
            log.warning("session %s: %s", piece.session, error)
            told = SessionWarning(piece.session, "bad_item", f"An item was lost: {error}.")
            self._send(peer, told)
            return
        if item is not None:
            self._handle(peer, item)

    def _handle(self, peer: bytes, message: SessionMessage | SoundHeard) -> None:
        entry = self._open.get((peer, message.session))
        if entry is None:
            return
        try:
            if not isinstance(message, SoundHeard):
                entry.session.handle(message)
            elif isinstance(entry.session, SoundTaker):
                entry.session.take_sound(message)
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this session only
            log.exception("session %s failed", message.session)
            reason = "internal error of the engine"
            self._end(peer, message.session, SessionEnded(message.session, "failed", reason))

    def _send(self, peer: bytes, message: ToIngest) -> None:
        if isinstance(message, UnitDone):
            self.stages.add(message.stages_ms)
            self.dropped_ms += message.dropped_ms
            if "unit" in message.stages_ms:
                self.headroom.unit(message.stages_ms["unit"], message.dropped_ms)
        if isinstance(message, SessionEnded):
            self._end(peer, message.session, message)
        elif not self._listener.send(peer, message):
            # The queue to this worker is full or it is gone: audio would have holes from here on.
            self._forget(peer, "a media worker does not take its messages")

    def _forget(self, peer: bytes, why: str) -> None:
        sessions = [session for owner, session in self._open if owner == peer]
        log.warning("%s; closing its %d sessions", why, len(sessions))
        self._listener.forget(peer)
        self._names.pop(peer, None)
        for session in sessions:
            self._end(peer, session)

    def _end(self, peer: bytes, session: str, ended: SessionEnded | None = None) -> None:
        """Close a session if it is open, and say `ended` once its slot is free."""
        entry = self._open.pop((peer, session), None)
        if entry is None:
            return
        task = asyncio.get_running_loop().create_task(self._close(peer, session, entry, ended))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(
        self, peer: bytes, session: str, entry: _Open, ended: SessionEnded | None
    ) -> None:
        try:
            await entry.session.close()
        except Exception:  # noqa: BLE001 - the boundary: the slot must come back whatever happens
            log.exception("closing session %s failed", session)
        finally:
            self.slots.release(entry.slot)
            self._on_closed()
        if ended is not None:
            self._listener.send(peer, ended)
