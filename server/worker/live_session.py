"""What a Live session has beside every other: its door, its timeline, and sound that is shared."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence

from media.clock import Ticker
from media.formats import DOWNLINK_HZ, DOWNLINK_PACKET_BYTES, UPLINK_HZ
from media.liveplayout import LivePlayout
from media.rates import RateConverter
from media.steady import PIECE_PACKETS
from media.wake import WakeGate
from server.worker.session import CallSession
from signaling.live import server_events as wire
from signaling.live.connection import Kind, LiveConnection
from signaling.live.door import LiveDoor
from signaling.live.session_config import CalledConfig, LiveConfig

log = logging.getLogger(__name__)

TICKS_PER_LOOK = 5
SILENCE = bytes(DOWNLINK_PACKET_BYTES)
PIECE_MS = 100


class LiveSession:
    """Owns the door and the playout of one session, and when the model hears nothing."""

    def __init__(
        self,
        session: CallSession,
        config: LiveConfig,
        ticker: Ticker,
        *,
        append: Callable[[bytes], None] | None = None,
        delegate_when_said: Sequence[str] = (),
        start_event_id: str | None = None,
    ) -> None:
        """`append` takes sound that comes in messages, in the session's format."""
        self._session = session
        self.playout = LivePlayout(
            listener=session.conversation.responses, taken=self._taken, ended=self._fixture_ended
        )
        session.conversation.responses.use(self.playout)
        self.door = LiveDoor(
            session.commands,
            config,
            timeline_ms=self.timeline_ms,
            append=append,
            play=self.playout.play,
            on_pause=self._pause,
            delegate_when_said=delegate_when_said,
            start_event_id=start_event_id,
        )
        wake = config.wake_policy if isinstance(config, CalledConfig) else None
        threshold = 0.5 if wake is None else wake.vad_threshold
        self._gate = WakeGate(self._pass, self._woken, threshold)
        self._reflected = RateConverter(UPLINK_HZ, DOWNLINK_HZ)
        self._piece: list[bytes] = []
        self._ticks = 0
        self._unsubscribe = ticker.subscribe(self._tick)
        session.audience.add(self.door)
        session.live = self
        session.input.goes_on_muted = True

    def timeline_ms(self) -> int:
        """How much of the user's sound has passed, paused time excluded."""
        return self._gate.pts * 1000 // UPLINK_HZ

    def connect(
        self,
        send: Callable[[str], object],
        kind: Kind,
        *,
        is_open: Callable[[], bool] = lambda: True,
        has_room: Callable[[], bool] = lambda: True,
        wants_audio: bool = False,
    ) -> LiveConnection:
        """Let a connection take part; a data channel within the rights that were configured."""
        rights = self.door.config.rights if kind == "data_channel" else None
        connection = LiveConnection(
            *(self.door, send, kind),
            rights=rights,
            is_open=is_open,
            has_room=has_room,
            wants_audio=wants_audio,
        )
        self.door.attach(connection)
        return connection

    def hear(self, pts: int, pcm: bytes) -> None:
        """Take the user's sound: 16 kHz int16."""
        if not self._session.input.takes_sound:
            # Time that nobody hears is none of the session's.
            return
        if self.door.reflects:
            sound = self._reflected.convert(pcm)
            self.door.reflect(wire.ReflectedInput(audio=base64.b64encode(sound).decode()))
        # While a recording is played nobody listens.
        self._gate.hear(pts, bytes(len(pcm)) if self.playout.is_held else pcm)

    def close(self) -> None:
        self._unsubscribe()

    # ------------------------------------------------------------------ within

    def _pass(self, pts: int, pcm: bytes) -> None:
        self._session.input.hear(pts, pcm)

    def _pause(self, is_paused: bool) -> None:
        self._gate.shut(is_paused)

    def _woken(self) -> None:
        """Somebody speaks; who is muted does not speak to the model."""
        if not self._session.commands.is_muted:
            self.door.woken()

    def _fixture_ended(self) -> None:
        self.door.fixture_played()

    def _tick(self) -> None:
        self._ticks += 1
        if self._ticks % TICKS_PER_LOOK == 0:
            self.door.tick()

    def _taken(self, pcm: bytes | None) -> None:
        """Reflect what is said, 100 ms at a time."""
        if not self.door.reflects:
            self._piece.clear()
            return
        self._piece.append(pcm or SILENCE)
        if len(self._piece) == PIECE_PACKETS:
            sound = base64.b64encode(b"".join(self._piece)).decode()
            self._piece.clear()
            end_ms = self.timeline_ms()
            start_ms = max(0, end_ms - PIECE_MS)
            self.door.reflect(wire.OutputAudio(delta=sound, start_ms=start_ms, end_ms=end_ms))
