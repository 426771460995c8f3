"""A Live session over a WebSocket: it is one from its `session.start` on."""

from __future__ import annotations

import asyncio
import base64
import functools
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from media.clock import Ticker
from media.formats import UPLINK_HZ
from media.livepace import RealTimeInput
from media.steady import SteadyOutput
from media.wireformat import WireDecoder, WireEncoder, WireFormat
from server.config import Config
from server.endings import REASONS
from server.worker.live_session import LiveSession
from server.worker.peer_transport import playout_stats
from server.worker.session import CallSession
from signaling.errors import ProtocolError
from signaling.live import server_events as wire
from signaling.live.client_events import SessionStart, parse_live_event
from signaling.live.closing import CLOSE_CODES, REFUSED, ending
from signaling.live.config_reading import read_config
from signaling.live.connection import LiveConnection
from signaling.live.session_config import ALaw, LiveConfig, MuLaw
from signaling.live.settings import settings_of
from signaling.socket_for import SocketFor
from signaling.websocket import WebSocketLink

log = logging.getLogger(__name__)

START_S = 120.0
"""Clients connect when they are set up, and start when somebody is there to talk to."""
NO_INPUT_S = 60.0
FLOWING_S = 1.0
"""Silence is told while the user's sound flows; without it the timeline stands."""
MAX_UNSENT_S = 2.0


class LiveStream:
    """Owns the WebSocket of one session, and its sound both ways once it was started."""

    def __init__(
        self,
        session: CallSession,
        config: Config,
        ticker: Ticker,
        on_connected: Callable[[], object],
    ) -> None:
        self._session = session
        self._ticker = ticker
        self._on_connected = on_connected
        self._phrases = config.live.delegate_when_said
        self._link: WebSocketLink | None = None
        self._live: LiveSession | None = None
        self._connection: LiveConnection | None = None
        self._sound: StreamSound | None = None
        self._unsubscribe: Callable[[], object] = lambda: None
        self._deadline = asyncio.get_running_loop().call_later(
            config.calls.connect_deadline_s, lambda: session.end("connect_timeout")
        )
        session.carry(self)

    async def accept(self, sock: socket.socket, told: SocketFor) -> None:
        """Take the client's WebSocket; once."""
        if self._link is not None:
            sock.close()
            return
        self._deadline.cancel()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(START_S, self._start_is_late)
        link = self._link = WebSocketLink(told.head, received=self._receive, gone=self._session.end)
        await loop.connect_accepted_socket(lambda: link, sock)

    # ------------------------------------------------------------------ the start

    def _receive(self, text: str) -> None:
        if self._connection is not None:
            self._connection.receive(text)
        elif self._session.reason is None:
            try:
                self._start(text)
            except ProtocolError as error:
                self._refuse(error)

    def _start(self, text: str) -> None:
        event = parse_live_event(text)
        if not isinstance(event, SessionStart):
            told = "type: the first event is session.start."
            raise ProtocolError(
                told, code="session_not_started", param="type", event_id=event.event_id
            )
        try:
            config = read_config(event.session)
            self._session.configure(settings_of(config))
        except ProtocolError as error:
            error.event_id = event.event_id
            raise
        self._deadline.cancel()
        assert self._link is not None
        sound = self._sound = StreamSound(config, self._session, self._link)
        live = self._live = LiveSession(
            *(self._session, config, self._ticker),
            append=sound.append,
            delegate_when_said=self._phrases,
            start_event_id=event.event_id,
        )
        sound.use(live)
        self._connection = live.connect(self._link.send, "websocket")
        self._unsubscribe = self._ticker.subscribe(sound.tick)
        log.info("session %s started over a WebSocket", self._session.call_id)
        self._on_connected()

    def _start_is_late(self) -> None:
        told = f"session.start did not come within {START_S:.0f} s."
        self._refuse(ProtocolError(told, code="start_timeout"))

    def _refuse(self, error: ProtocolError) -> None:
        """Clients wait for ever for a start that was refused, unless the connection ends."""
        if self._link is not None:
            self._link.send(wire.encode(wire.live_error(error)))
        self._session.end("not_started")

    # ------------------------------------------------------------------ Transport

    @property
    def is_connected(self) -> bool:
        return self._connection is not None and self.is_reachable

    @property
    def is_reachable(self) -> bool:
        return self._link is not None and self._link.is_open

    def served(self) -> None:
        if self._live is not None and self._sound is not None:
            self._sound.begin()
            self._session.greet(self._live.door)

    async def tend(self) -> None:
        """End the session when nothing comes any more."""
        is_quiet = self._session.commands.is_muted or self._session.pause.is_on
        if self._sound is not None and not is_quiet:
            if self._sound.quiet_s > NO_INPUT_S:
                self._session.end("no_input")

    async def settled(self) -> None:
        return

    async def flushed(self) -> None:
        return

    async def close(self) -> None:
        self._deadline.cancel()
        self._unsubscribe()
        link, self._link = self._link, None
        reason = self._session.reason or ""
        close_code = REFUSED
        if self._live is not None:
            self._live.close()
            close_code = self._live.door.close_code
        elif link is not None and reason != "not_started":
            # Nobody else tells a client that has not started anything.
            code = ending(reason).code
            told = ProtocolError(REASONS.get(reason, reason), code=code or reason)
            link.send(wire.encode(wire.live_error(told)))
            close_code = CLOSE_CODES.get(code, REFUSED)
        if link is not None:
            await link.close(close_code, reason)

    async def stats(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        if self._live is not None:
            stats = playout_stats(self._live.playout)
            rows.append({"type": "media-playout", "kind": "audio"} | stats)
        if self._sound is not None:
            rows.append({"type": "inbound-stream", "kind": "audio"} | self._sound.stats())
        if self._link is not None:
            rows.append(self._link.stats())
        return rows


class StreamSound:
    """Owns the conversion and the pace of one session's sound in messages."""

    def __init__(
        self,
        config: LiveConfig,
        session: CallSession,
        link: WebSocketLink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._link = link
        self._clock = clock
        form = wire_format(config)
        self._decoder, self._encoder = WireDecoder(form), WireEncoder(form)
        self._silence = silent_piece(form)
        self._max_unsent = int(MAX_UNSENT_S * 10 * len(self._silence))
        self._live: LiveSession | None = None
        self._input: RealTimeInput | None = None
        self._output: SteadyOutput | None = None
        self._heard_at = clock()
        self._was_silent = False

    def use(self, live: LiveSession) -> None:
        """Give the session whose sound it is; once."""
        self._live = live
        self._input = RealTimeInput(live.hear, live.door.skipped, self._clock)
        self._output = SteadyOutput(live.playout.take, self._emit, self._clock)

    def begin(self) -> None:
        """From now on sound is awaited: clients hold it back until they are served."""
        self._heard_at = self._clock()

    @property
    def quiet_s(self) -> float:
        """For how long nothing has come."""
        return self._clock() - self._heard_at

    def append(self, data: bytes) -> None:
        """Take sound of the client in the session's format."""
        assert self._input is not None
        self._heard_at = self._clock()
        self._input.append(self._decoder.decode(data))

    def tick(self) -> None:
        if self._live is None or not self._live.door.is_started or self._session.reason:
            return
        assert self._input is not None and self._output is not None
        self._input.tick()
        self._output.tick()

    def stats(self) -> dict[str, Any]:
        assert self._input is not None
        return {
            "totalSamplesReceived": self._input.pts,
            "droppedSamples": self._input.skipped_samples,
            "seconds": round(self._input.pts / UPLINK_HZ, 1),
        }

    def _emit(self, pcm: bytes, is_silent: bool) -> None:
        if self._link.unsent_bytes > self._max_unsent:
            self._session.end("too_slow")
            return
        if is_silent and self._was_silent:
            if self.quiet_s < FLOWING_S:
                self._link.send(self._silence)
            return
        self._was_silent = is_silent
        self._link.send(_delta(self._encoder.encode(pcm)))


def wire_format(config: LiveConfig) -> WireFormat:
    """How a session's sound is written in its messages."""
    form = config.format
    law = {MuLaw: "mu", ALaw: "a"}.get(type(form))
    return WireFormat(form.rate, law)  # type: ignore[arg-type]


@functools.cache
def silent_piece(form: WireFormat) -> str:
    """The message of 100 ms of silence."""
    plain = WireEncoder(WireFormat(24_000, form.law))
    return _delta(plain.encode(bytes(2 * form.hz // 10)))


def _delta(sound: bytes) -> str:
    return wire.encode(wire.OutputAudio(delta=base64.b64encode(sound).decode()))
