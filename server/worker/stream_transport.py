"""A session over a WebSocket: events and sound in the same messages, no tracks."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from engine.ipc.patience import TICK_S
from media.clock import Ticker
from media.inputpace import InputPace
from media.picture import CameraPicture
from media.sentahead import SentAhead
from media.shownpictures import ShownPictures
from media.wireformat import PCM, PCMA, PCMU, WireDecoder, WireEncoder, WireFormat
from server.config import Config
from server.worker.doors import PROTOCOLS
from server.worker.session import CallSession
from server.worker.websocket_connection import WebSocketConnection
from signaling.awake import AwakeClock
from signaling.settings import AudioFormat
from signaling.socket_for import SocketFor

log = logging.getLogger(__name__)

FORMATS: dict[str, WireFormat] = {"audio/pcm": PCM, "audio/pcmu": PCMU, "audio/pcma": PCMA}
UNIT_SPEED = 1.0
"""An engine that hears in units of real time skips what comes faster."""
FAST_SPEED = 10.0
TICKS_PER_LOOK = 5
TICKS_PER_PROBE = 50
AWAY_S = 3.0
"""After so much silence a client is away that may come back over another connection."""


class StreamTransport:
    """Owns the sound of one session in both directions, and its WebSocket."""

    def __init__(
        self,
        session: CallSession,
        config: Config,
        ticker: Ticker,
        threads: Executor,
        on_connected: Callable[[], object],
        door: str = "realtime",
        clock: Callable[[], float] = time.monotonic,
        *,
        comes_back: bool = False,
    ) -> None:
        """`threads` read pictures; `door`: the protocol that is spoken; `comes_back`: the client
        was in this conversation before.
        """
        self._comes_back = comes_back
        self._session = session
        self._on_connected = on_connected
        sound = self._sound = PROTOCOLS[door].sound
        self._start_s = PROTOCOLS[door].start_s
        self._waited = AwakeClock(TICK_S, clock)
        self._served_at: float | None = None
        responses = session.conversation.responses
        self._speech = SentAhead(listener=responses, max_ahead_s=sound.max_ahead_s)
        responses.use(self._speech, is_sent_ahead=math.isinf(sound.max_ahead_s))
        self._input = InputPace(session.input.hear, self._speed, max_waiting_s=sound.max_waiting_s)
        self._pictures = ShownPictures(
            self._seen,
            executor=threads,
            max_fps=config.media.video_fps,
            max_side=config.media.video_side,
        )
        self._told_dropped = 0
        self._decoder = WireDecoder(PCM)
        self._encoder = WireEncoder(PCM)
        self._connection: WebSocketConnection | None = None
        self._ticks = 0
        self._unsubscribe = ticker.subscribe(self._tick)
        self._deadline = asyncio.get_running_loop().call_later(
            config.calls.connect_deadline_s, lambda: session.end("connect_timeout")
        )
        session.carry(self)

    async def accept(self, sock: socket.socket, told: SocketFor) -> None:
        """Take the client's WebSocket, or another one in place of the one that it lost."""
        before = self._connection
        if before is not None and not told.resumes:
            sock.close()
            return
        self._deadline.cancel()
        connection: WebSocketConnection

        def gone(reason: str) -> None:
            if connection is self._connection:
                self._gone(reason)

        connection = self._connection = WebSocketConnection(
            self._session, told, port=self, has_track=False, gone=gone
        )
        await connection.open(sock)
        log.info("session %s connected by a WebSocket", self._session.call_id)
        if before is None:
            self._on_connected()
            self._session.back(self)
            return
        self._session.conversation.responses.strand()
        await before.close()
        self._session.greet(connection.door, comes_back=True)
        self._session.back(self)

    def _gone(self, reason: str) -> None:
        if reason != "vanished":
            # What a client says on a WebSocket it means.
            self._session.end(reason)
            return
        self._input.drop()
        self._session.conversation.responses.strand()
        self._session.lost(self, reason, is_over=False)

    # ------------------------------------------------------------------ signaling SoundPort

    def append(self, data: bytes) -> None:
        """Take sound of the client in the session's input format."""
        form = self._sound.input or _form(self._session.conversation.settings.audio.input.format)
        if self._decoder.form != form:
            self._decoder = WireDecoder(form)
        self._input.append(self._decoder.decode(data))

    def flush(self) -> None:
        """What was appended is whole."""
        self._input.flush()

    def drop(self) -> None:
        """Forget what was appended and did not reach the engine."""
        self._input.drop()

    def see(self, file: bytes) -> None:
        """Take a picture of the client's camera, a JPEG file."""
        self._pictures.show(file)

    def encode(self, pcm: bytes) -> bytes:
        """Return 24 kHz PCM in the session's output format."""
        settings = self._session.conversation.settings
        form = self._sound.output or _form(settings.audio.output.format)
        if self._encoder.form != form:
            self._encoder = WireEncoder(form)
        return self._encoder.encode(pcm)

    # ------------------------------------------------------------------ Transport

    @property
    def is_connected(self) -> bool:
        return self._connection is not None and self._connection.link.is_open

    @property
    def is_reachable(self) -> bool:
        return self.is_connected

    def served(self) -> None:
        self._served_at = self._waited()
        connection = self._connection
        if connection is not None and self._comes_back:
            self._session.greet(connection.door, comes_back=True)
        elif connection is not None:
            connection.served()

    async def tend(self) -> None:
        """Say once a second at most that sound was not heard; give up a client that does not
        begin."""
        waited_s = self._waited() - (self._served_at or 0)
        is_started = self._connection is None or self._connection.door.is_started
        if self._served_at is not None and waited_s > self._start_s and not is_started:
            self._session.end("not_started")
        dropped = self._input.dropped_samples
        if dropped != self._told_dropped:
            self._told_dropped = dropped
            told = "Sound came so much faster than it is heard that some of it was skipped."
            self._session.notify("audio_skipped", told)

    async def settled(self) -> None:
        return

    async def flushed(self) -> None:
        return

    async def close(self) -> None:
        self._deadline.cancel()
        self._unsubscribe()
        self._pictures.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def stats(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {
                "type": "media-playout",
                "kind": "audio",
                "totalSamplesCount": self._speech.sent_samples,
                "staleSamples": self._speech.stale_samples,
            },
            {
                "type": "inbound-stream",
                "kind": "audio",
                "totalSamplesReceived": self._input.received_samples,
                "droppedSamples": self._input.dropped_samples,
            },
        ]
        if self._pictures.received:
            rows.append(
                {
                    "type": "inbound-stream",
                    "kind": "video",
                    "framesReceived": self._pictures.received,
                    "decodeErrors": self._pictures.unreadable,
                }
            )
        if self._connection is not None:
            rows.append(self._connection.link.stats())
        return rows

    # ------------------------------------------------------------------ time

    def _tick(self) -> None:
        if self._session.slot.is_open:
            self._input.tick()
        self._ticks += 1
        if self._ticks % TICKS_PER_PROBE == 0 and self._session.is_resumable:
            self._probe()
        if self._ticks % TICKS_PER_LOOK == 0:
            self._speech.tick()
            self._pictures.tick()

    def _probe(self) -> None:
        """Notice a client that is frozen or unplugged, whose connection may last for minutes."""
        link = None if self._connection is None else self._connection.link
        if link is None or not link.is_open:
            return
        link.probe()
        if link.silent_s > AWAY_S:
            self._session.away(self)
        else:
            self._session.back(self)

    def _seen(self, picture: CameraPicture) -> None:
        if self._session.conversation.settings.video.enabled:
            self._session.input.see(picture.width, picture.height, picture.rgb)

    def _speed(self) -> float:
        abilities = self._session.conversation.abilities
        in_units = abilities is not None and abilities.hears_in_units
        detects = self._session.conversation.settings.audio.input.turn_detection
        return UNIT_SPEED if in_units and detects is not None else FAST_SPEED


def _form(given: AudioFormat) -> WireFormat:
    return FORMATS[given.type]
