"""Between media workers and an engine: passes all messages on, sound and pictures when due."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from engine.ingest.messages import ListeningNeeds, ToIngest
from engine.ingest.session_ear import SessionEar
from engine.ipc.patience import TICK_S
from engine.ipc.protocol import (
    AudioIn,
    CloseSession,
    CommitAudio,
    FromEngine,
    Heard,
    Hello,
    ImageIn,
    OpenSession,
    Refused,
    SessionEnded,
    SessionRefused,
    ToEngine,
    UpdateSession,
)
from engine.ipc.transport import Dialer, Listener

log = logging.getLogger(__name__)

PEER_SILENCE_S = 15.0
SWEEP_S = 0.05
LAST_S = 0.1
MAX_EARS = 4096
"""Sessions of one media worker, also such as the engine will refuse."""


class WorkerLine:
    """One media worker's sessions and its link to the engine, by the worker's own name."""

    def __init__(
        self,
        engine: str,
        hello: Hello,
        send: Callable[[FromEngine], None],
        on_lost: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._send = send
        self._clock = clock
        self._ears: dict[str, SessionEar] = {}
        self._is_flushing = False
        self._dialer: Dialer[ToIngest] = Dialer(
            engine, ToIngest, name=hello.name, on_message=self._answered, on_lost=on_lost
        )

    def take(self, message: ToEngine) -> bool:
        """Take the worker's next message; False when the engine does not keep up."""
        match message:
            case AudioIn():
                self._hear(message)
                return True
            case ImageIn():
                self._look(message)
                return True
            case Heard() if not message.final:
                self._dialer.gather(message)
                return True
            case OpenSession():
                if message.session not in self._ears and len(self._ears) < MAX_EARS:
                    self._ears[message.session] = SessionEar(
                        message.session, message.config, self._send, self._clock
                    )
            case CloseSession():
                self._ears.pop(message.session, None)
        ear = self._ears.get(getattr(message, "session", ""))
        if ear is not None:
            self._catch_up(ear, message)
        return self._dialer.send(message)

    def sweep(self) -> None:
        """Pass on what is kept for sessions that have gone silent."""
        for ear in self._ears.values():
            if ear.is_idle:
                self._pass_on(ear)

    def close(self) -> None:
        """End the sessions that are open."""
        for session in self._ears:
            self._dialer.send(CloseSession(session))
        self._dialer.close()

    def _hear(self, message: AudioIn) -> None:
        ear = self._ears.get(message.session)
        if ear is None:
            return
        ear.hear(message)
        if ear.is_due:
            self._pass_on(ear)
            self._flush_soon()
        self._show(ear.take_picture())

    def _look(self, message: ImageIn) -> None:
        ear = self._ears.get(message.session)
        if ear is not None:
            self._show(ear.look(message))

    def _show(self, picture: ImageIn | None) -> None:
        if picture is not None:
            # Where the engine is behind, the next picture is worth more than this one.
            self._dialer.send(picture)

    def _catch_up(self, ear: SessionEar, message: ToEngine) -> None:
        """Put what came before a message before it."""
        self._show(ear.take_picture(now=True))
        self._pass_on(ear)
        if isinstance(message, CommitAudio):
            self._dialer.gather(ear.commit())
        if isinstance(message, UpdateSession):
            ear.configure(message.config)

    def _pass_on(self, ear: SessionEar) -> None:
        heard = ear.take()
        if heard is not None:
            self._dialer.gather(heard)

    def _flush_soon(self) -> None:
        """Flush behind what has come together with this."""
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        self._dialer.flush()

    def _answered(self, message: ToIngest) -> None:
        match message:
            case ListeningNeeds():
                ear = self._ears.get(message.session)
                if ear is not None:
                    ear.needs(message)
                return
            case SessionRefused(code="duplicate"):
                pass  # The session of that name goes on.
            case SessionEnded() | SessionRefused():
                self._ears.pop(message.session, None)
        self._send(message)


class Relay:
    """Owns the endpoint that media workers dial, and a line to the engine for each of them."""

    def __init__(
        self, endpoint: str, engine: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`engine`: where the engine itself listens. Raises `zmq.ZMQError`."""
        self._engine = engine
        self._clock = clock
        self._lines: dict[bytes, WorkerLine] = {}
        self._listener: Listener[ToEngine] = Listener(
            endpoint,
            ToEngine,
            on_message=self._take,
            on_peer=self._welcome,
            clock=clock,
            silence_limit_s=PEER_SILENCE_S,
        )

    @property
    def endpoint(self) -> str:
        return self._listener.endpoint

    async def run(self) -> None:
        """Keep nothing back for too long and watch the workers, until cancelled."""
        checked = self._clock()
        while True:
            await asyncio.sleep(SWEEP_S)
            for line in self._lines.values():
                line.sweep()
            if self._clock() - checked >= TICK_S:
                checked = self._clock()
                self._listener.mend()
                gone = set(self._lines) - set(self._listener.peers)
                for peer in [*self._listener.silent_peers(), *gone]:
                    self._forget(peer, "a media worker is silent, or was refused")

    def close(self) -> None:
        for line in self._lines.values():
            line.close()
        self._lines.clear()
        self._listener.close()

    def _welcome(self, peer: bytes, hello: Hello) -> None:
        def send(message: FromEngine) -> None:
            if peer in self._lines and not self._listener.send(peer, message):
                self._forget(peer, "a media worker does not take its messages")

        def lost(reason: str) -> None:
            # What the engine said last may still wait to be read.
            asyncio.get_running_loop().call_later(LAST_S, ended, reason)

        def ended(reason: str) -> None:
            if peer in self._lines:
                self._listener.send(peer, Refused("malformed", reason))
                self._forget(peer, f"the engine's end of a line is gone: {reason}")

        self._lines[peer] = WorkerLine(self._engine, hello, send, lost, self._clock)

    def _take(self, peer: bytes, message: ToEngine) -> None:
        line = self._lines.get(peer)
        if line is not None and not line.take(message):
            self._forget(peer, "the engine does not take its messages")

    def _forget(self, peer: bytes, why: str) -> None:
        line = self._lines.pop(peer, None)
        self._listener.forget(peer)
        if line is not None:
            log.warning("%s", why)
            line.close()
