"""A media worker's end of an engine: a client for each engine, a link for each session."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from engine.ipc.patience import TICK_S, Patience, patiently
from engine.ipc.protocol import (
    AudioIn,
    CloseSession,
    FromEngine,
    Heard,
    Message,
    OpenSession,
    Ping,
    Pong,
    Refused,
    SessionConfig,
    SessionEnded,
    SessionOpened,
    SessionRefused,
    Welcome,
)
from engine.ipc.transport import Dialer

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0
SILENT_S = 3.0
"""Callers are told of a silence that is longer."""
SILENCE_LIMIT_S = 13.0
"""A machine may pause for some seconds. The supervisor, which judges a little earlier, ends the
process as well, so that no new call is sent to it meanwhile."""
CONNECT_TIMEOUT_S = SILENCE_LIMIT_S
OPEN_TIMEOUT_S = 30.0
"""Of an engine that gives signs of life: one that is silent is gone before."""


class EngineGone(Exception):
    """The engine process died, hangs or refused the link; its sessions are over."""


class EngineFull(Exception):
    """The engine is full; another session must end first."""


class EngineSessionLink:
    """One session's way to its engine. Messages from the engine arrive at `on_message`, in order.

    `on_gone(reason)` is called at most once, when the engine is lost while the line is open;
    `on_silence(is_silent)` when it has said nothing for `SILENT_S`, and when it is back.
    """

    def __init__(
        self,
        client: EngineClient,
        session: str,
        on_message: Callable[[FromEngine], None],
        on_gone: Callable[[str], None],
        on_silence: Callable[[bool], None],
    ) -> None:
        self._client = client
        self.session = session
        self.on_message = on_message
        self.on_gone = on_gone
        self.on_silence = on_silence
        self.opened: asyncio.Future[SessionOpened] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_open = True

    def send(self, message: Message) -> bool:
        """Queue a message of this session; False when the line is closed or the engine behind."""
        return self.is_open and self._client.send(message)

    def finish(self) -> None:
        """Nothing more comes from the engine; for `EngineClient` only."""
        if not self.ended.done():
            self.ended.set_result(None)

    async def close(self) -> None:
        """Free the slot and wait until the engine says so; nothing is delivered afterwards."""
        if not self.is_open:
            return
        self.is_open = False
        self._client.send(CloseSession(self.session))
        try:
            await patiently(self.ended, CLOSE_TIMEOUT_S)
        except TimeoutError:
            log.warning("the engine did not confirm the end of session %s", self.session)
        finally:
            self._client.drop(self)


class EngineClient:
    """Owns the link to one engine process. Call `connect`, then keep `run` alive in a TaskGroup."""

    def __init__(
        self,
        endpoint: str,
        *,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self._name = name
        self._lines: dict[str, EngineSessionLink] = {}
        self._dialer: Dialer[FromEngine] | None = None
        self._welcome: asyncio.Future[Welcome] | None = None
        self._gone: asyncio.Event = asyncio.Event()
        self._gone_reason = ""
        self._clock = clock
        self._patience = Patience(SILENCE_LIMIT_S, clock=clock)
        self._is_silent = False

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    @property
    def welcome(self) -> Welcome:
        """What the engine said of itself; once `connect` has returned."""
        assert self._welcome is not None, "connect() comes first"
        return self._welcome.result()

    async def connect(self, timeout_s: float = CONNECT_TIMEOUT_S) -> Welcome:
        """Dial and wait for `Welcome`. Raises `EngineGone` when refused or not answered in time."""
        if self.is_gone:
            raise EngineGone(self._gone_reason)
        self._welcome = asyncio.get_running_loop().create_future()
        self._dialer = Dialer(
            self.endpoint,
            FromEngine,
            name=self._name,
            on_message=self._receive,
            on_lost=self.lost,
        )
        try:
            return await patiently(self._welcome, timeout_s, clock=self._clock)
        except TimeoutError:
            self.lost(f"no answer within {timeout_s:g} s")
            return await self._welcome

    async def run(self) -> None:
        """Ping until the engine is gone; returns then, never raises for it."""
        n = 0
        self._patience.sign()
        while not self._gone.is_set():
            n += 1
            self.send(Ping(n))
            try:
                async with asyncio.timeout(TICK_S):
                    await self._gone.wait()
            except TimeoutError:
                is_gone = self._patience.check()
                self._notice_silence(self._patience.silent_s > SILENT_S)
                if is_gone:
                    self.lost(f"no sign of life for {self._patience.silent_s:.1f} s")

    def _notice_silence(self, is_silent: bool) -> None:
        if is_silent == self._is_silent:
            return
        self._is_silent = is_silent
        for line in tuple(self._lines.values()):
            if line.is_open and line.opened.done():
                line.on_silence(is_silent)

    async def open(
        self,
        session: str,
        config: SessionConfig,
        *,
        on_message: Callable[[FromEngine], None],
        on_gone: Callable[[str], None],
        on_silence: Callable[[bool], None] = lambda is_silent: None,
    ) -> EngineSessionLink:
        """Get a slot. Raises `EngineFull`, `EngineGone`, or `ValueError` for a refused config."""
        if self._gone.is_set():
            raise EngineGone(self._gone_reason)
        if session in self._lines:
            raise ValueError(f"session {session} is open already")
        line = EngineSessionLink(self, session, on_message, on_gone, on_silence)
        self._lines[session] = line
        self.send(OpenSession(session, config))
        try:
            await patiently(line.opened, OPEN_TIMEOUT_S, clock=self._clock)
        except (TimeoutError, asyncio.CancelledError) as error:
            # Whether the engine opened it is unknown; closing is right in both cases.
            self.send(CloseSession(session))
            self.drop(line)
            if isinstance(error, TimeoutError):
                raise EngineGone(f"no slot within {OPEN_TIMEOUT_S:g} s") from None
            raise
        return line

    def send(self, message: Message) -> bool:
        if self._dialer is None or self.is_gone:
            return False
        if isinstance(message, AudioIn) or (isinstance(message, Heard) and not message.final):
            # Many a second from each session, and none of them is waited for.
            self._dialer.gather(message)
            return True
        return self._dialer.send(message)

    def drop(self, line: EngineSessionLink) -> None:
        """Stop delivering to a line; for `EngineSessionLink` only."""
        line.is_open = False
        line.finish()
        self._lines.pop(line.session, None)

    def close(self) -> None:
        """Drop every line and close the link; the engine ends their sessions. Idempotent."""
        for line in tuple(self._lines.values()):
            self.send(CloseSession(line.session))
            self.drop(line)
        self._gone.set()
        if self._dialer is not None:
            self._dialer.close()

    def _receive(self, message: FromEngine) -> None:
        self._patience.sign()
        self._notice_silence(False)
        match message:
            case Welcome():
                if self._welcome is not None and not self._welcome.done():
                    self._welcome.set_result(message)
            case Pong() | Refused():
                pass
            case SessionOpened():
                line = self._lines.get(message.session)
                if line is not None and not line.opened.done():
                    line.opened.set_result(message)
            case SessionRefused():
                self._refuse(message)
            case _:
                self._deliver(message)

    def _deliver(self, message: FromEngine) -> None:
        line = self._lines.get(message.session)  # type: ignore[union-attr]
        if line is None:
            return
        was_open = line.is_open
        if isinstance(message, SessionEnded):
            self.drop(line)
        if was_open:
            line.on_message(message)

    def _refuse(self, message: SessionRefused) -> None:
        line = self._lines.get(message.session)
        if line is None:
            return
        self.drop(line)
        if not line.opened.done():
            full = message.code == "no_free_slot"
            line.opened.set_exception((EngineFull if full else ValueError)(message.reason))

    def lost(self, reason: str) -> None:
        """Take the engine for gone and tell every line; by the link, or by who knows better."""
        if self._gone.is_set():
            return
        self._gone_reason = reason
        self._gone.set()
        log.warning("engine at %s is gone: %s", self.endpoint, reason)
        gone = EngineGone(reason)
        if self._welcome is not None and not self._welcome.done():
            self._welcome.set_exception(gone)
        lines, self._lines = self._lines, {}
        for line in lines.values():
            was_open, line.is_open = line.is_open, False
            line.finish()
            if line.opened.done():
                if was_open:
                    line.on_gone(reason)
            else:
                line.opened.set_exception(gone)
        if self._dialer is not None:
            self._dialer.close()
