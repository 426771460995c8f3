"""The OpenAI Live door: what connections ask becomes commands of the session, and what happens
there Live's events. Media worker.

Live has no turns: a session's sound goes on both ways, and one timeline counts the ms of what was
heard. One object for each session, which its connections share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec import UNSET

from signaling.errors import ProtocolError
from signaling.live import client_events as c
from signaling.live import server_events as wire
from signaling.live import settings
from signaling.live.activity import IdleWatch, SessionClock
from signaling.live.closing import CLOSE_CODES, DONE, ending
from signaling.live.config_reading import read_update, resource
from signaling.live.connection import LiveConnection
from signaling.live.connections import Command, LiveConnections
from signaling.live.delegations import Delegations
from signaling.live.session_config import CalledConfig, LinearPcm, LiveConfig
from signaling.live.words import SpokenWords, input_words
from signaling.session import events as ev
from signaling.session.core import Asker, ContextKind, SessionCore

USAGE_S = 15.0
HUSHED = {True: "The model only listens.", False: "The model may speak again."}
MAX_APPENDS = 64
MAX_APPEND_S = 5
MAX_HELD = 64


class LiveDoor:
    """Owns what Live adds to a session. Call `tick` about ten times a second."""

    def __init__(
        self,
        core: SessionCore,
        config: LiveConfig,
        *,
        timeline_ms: Callable[[], int],
        append: Callable[[bytes], None] | None = None,
        play: Callable[[bytes], bool] = lambda pcm: False,
        on_pause: Callable[[bool], object] = lambda is_paused: None,
        delegate_when_said: Sequence[str] = (),
        start_event_id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeline_ms`: how much was heard. `append` takes sound that comes in messages. `play`: a
        recording, false while another one plays. `on_pause`: the model is to hear nothing more, or
        to go on. `delegate_when_said`: see `Delegations`. `start_event_id`: the client's name of
        its `session.start`.
        """
        self.config = config
        self.close_code = DONE
        """Of a WebSocket, once the session is over."""
        self.is_started = False
        self._core = core
        self._timeline_ms = timeline_ms
        self._take = append
        self._play = play
        self._on_pause = on_pause
        self._start_event_id = start_event_id
        self._clock = clock
        self._connections = LiveConnections()
        self._session: dict[str, Any] = {}
        media = config if isinstance(config, CalledConfig) else None
        self._time = SessionClock(tells_pauses=media is not None)
        self._idle = IdleWatch(media.idle_timeout_s if media else None, clock())
        self._usage_at = float("inf")
        self._kv_tokens = 0
        self._words = SpokenWords()
        self._delegations = Delegations(
            core, config, self._connections, timeline_ms, delegate_when_said
        )
        self._fixture: Command | None = None
        self._held: list[ev.Notice] = []
        """Of settings: for after the start, which clients wait for."""
        self._is_closing = False
        self._is_over = False

    # ------------------------------------------------------------------ connections

    def attach(self, connection: LiveConnection) -> None:
        """Tell a connection of everything from now on; a sideband hears first how things stand."""
        self._connections.add(connection)
        if connection.kind == "sideband" and self.is_started:
            connection.show(wire.LiveStarted(session=self._session))

    def greet(self, event: ev.SessionEvent, connection: LiveConnection) -> None:
        """Tell a connection, when it opens, how things stand."""
        if isinstance(event, ev.SessionReady) and self.is_started:
            connection.show(wire.LiveStarted(session=self._session))
        else:
            self.tell(event)

    def detach(self, connection: LiveConnection) -> None:
        self._connections.remove(connection)

    # ------------------------------------------------------------------ from the clients

    def handle(self, event: c.LiveClientEvent, connection: LiveConnection) -> None:
        """Do what one event asks; raises `ProtocolError`."""
        self._check_state(event)
        command = Command(connection, event.event_id)
        match event:
            case c.DelegationUpdate():
                self._update(event, command)
            case c.InputMute() | c.InputUnmute():
                is_muted = isinstance(event, c.InputMute)
                self._core.mute(is_muted, self._asker(command))
            case c.LiveForceListening() | c.LivePause() | c.LiveResume():
                self._rest(event)
            case c.InstructionsAppend() | c.ThinkingAppend() | c.CommentaryAppend():
                self._append(c.KINDS[type(event)], event, command)
            case c.FixturePlay():
                self._play_fixture(event, command)
            case c.BackendItem() | c.BackendContinue():
                self._delegations.use_backend(event)
            case c.SessionClose():
                self._is_closing = True
                self._core.hang_up()
            case c.InputAppend():
                self._take_sound(event)

    def _check_state(self, event: c.LiveClientEvent) -> None:
        if isinstance(event, c.SessionStart):
            told = "type: the session was started already."
            raise ProtocolError(told, code="session_already_started", param="type")
        if self._is_closing and not isinstance(event, c.InputAppend):
            raise ProtocolError("The session is being closed.", code="session_closed")
        if not self.is_started and not isinstance(event, c.SessionClose):
            told = "The session has not started yet; wait for session.started."
            raise ProtocolError(told, code="session_not_started")

    def _rest(self, event: c.LiveForceListening | c.LivePause | c.LiveResume) -> None:
        match event:
            case c.LiveForceListening():
                self._core.force_listen(event.on)
            case c.LivePause():
                self._core.pause()
            case c.LiveResume():
                self._core.resume()

    def _asker(self, command: Command) -> Asker:
        return Asker(self, self._connections.expect(command))

    def _update(self, event: c.DelegationUpdate, command: Command) -> None:
        config = read_update(event.session, self.config)
        settings.settings_of(config)
        self.config = self._delegations.config = config
        self._delegations.offer_tools()
        self._session = self._resource(self._session["expires_at"])
        self._connections.answer(wire.LiveUpdated, command, session=self._session)

    def _take_sound(self, event: c.InputAppend) -> None:
        assert self._take is not None, "a connection with a track refuses this"
        if self._is_closing:
            return  # It was on its way; nobody did anything wrong.
        form = self.config.format
        sample_bytes = 2 if isinstance(form, LinearPcm) else 1
        most = MAX_APPEND_S * form.rate * sample_bytes
        self._take(c.decode_audio(event.audio, max_bytes=most, sample_bytes=sample_bytes))

    def _append(self, kind: ContextKind, event: c.ContextAppend, command: Command) -> None:
        abilities = self._core.abilities
        if abilities is None or kind not in abilities.appends:
            raise ProtocolError(
                f"type: this model cannot be told {kind} while it runs.",
                code="append_unsupported",
                param="type",
            )
        if self._fixture is not None:
            raise ProtocolError("A fixture is being played.", code="fixture_playing")
        self._delegations.check(event.delegation_id)
        if self._connections.num_waiting >= MAX_APPENDS:
            told = f"At most {MAX_APPENDS} appends may wait to be placed."
            raise ProtocolError(told, code="rate_limit_exceeded")
        self._wake()
        if kind != "instructions":
            self._delegations.answered(is_said=kind == "commentary")
        asker = self._asker(command)
        try:
            self._core.append_context(kind, event.content, event.delegation_id, asker)
        except ProtocolError:
            self._connections.take(asker.event_id)
            raise

    def _play_fixture(self, event: c.FixturePlay, command: Command) -> None:
        pcm = c.fixture_pcm(event)
        if self._fixture is not None or not self._play(pcm):
            raise ProtocolError("No fixture can be played now.", code="fixture_playing")
        self._fixture = command
        self._wake()
        self._core.clear_output()
        self._connections.answer(wire.FixturePlaying, command)

    # ------------------------------------------------------------------ from the transport

    def tick(self) -> None:
        """Tell what has become due."""
        now = self._clock()
        if not self.is_started or self._is_over:
            return
        for words in self._words.due(now):
            self._connections.tell(words)
        if now >= self._usage_at:
            self._usage_at += USAGE_S
            self._connections.tell(self._usage_event(now))
        self._delegations.tick(now)
        if not self._time.is_paused and self._idle.is_due(now):
            self._time.pause(now)
            self._on_pause(True)
            self._connections.tell(wire.LivePaused())

    def woken(self) -> None:
        """Go on: the user speaks while the session pauses."""
        self._wake()

    def fixture_played(self) -> None:
        command, self._fixture = self._fixture, None
        if command is not None and not self._is_over:
            self._connections.answer(wire.FixturePlayed, command)

    def skipped(self, ms: int) -> None:
        """Warn of sound that came faster than it can be heard and was left out."""
        told = f"{ms} ms of old sound were skipped: it came faster than it can be heard."
        self._connections.inform("audio_skipped", told)

    @property
    def reflects(self) -> bool:
        """Whether any connection wants both sides' sound."""
        return self._connections.want_audio

    def reflect(self, event: wire.ReflectedInput | wire.OutputAudio) -> None:
        self._connections.reflect(event)

    def _wake(self) -> None:
        now = self._clock()
        self._idle.touch(now)
        if self._time.is_paused:
            self._time.resume(now)
            self._on_pause(False)
            self._connections.tell(wire.LiveResumed())

    # ------------------------------------------------------------------ from the session

    def tell(self, event: ev.SessionEvent, asked_as: str | None = None) -> None:
        """Render one event; `asked_as` is one of the names that this door gave."""
        if self._is_over:
            return
        match event:
            case ev.SessionReady():
                self._ready(event)
            case ev.QueueMoved():
                self._connections.inform("queue_position", _queued(event))
            case ev.Notice() if not self.is_started and len(self._held) < MAX_HELD:
                self._held.append(event)
            case ev.Notice():
                self._connections.inform(event.code, event.message)
            case ev.PartDropped():
                self._connections.inform("part_left_out", f"A part is left out: {event.reason}.")
            case ev.Figures():
                self._kv_tokens = int(event.figures.get("kv_tokens", 0))
            case ev.InputMuted() | ev.ContextPlaced() | ev.Refusal():
                self._answered(event, self._connections.take(asked_as))
            case ev.SessionOver():
                self._over(event)
            case _:
                self._hear(event)

    def _rested(self, event: ev.InputHushed | ev.CallPaused | ev.CallResumed) -> None:
        now = self._clock()
        match event:
            case ev.InputHushed():
                code = "force_listen_on" if event.is_on else "force_listen_off"
                self._connections.inform(code, HUSHED[event.is_on])
            case ev.CallPaused():
                if not self._time.is_paused:
                    self._time.pause(now)
                self._connections.tell(wire.LivePaused())
            case ev.CallResumed():
                if self._time.is_paused:
                    self._time.resume(now)
                self._connections.tell(wire.LiveResumed())

    def _hear(self, event: ev.SessionEvent) -> None:
        now = self._clock()
        match event:
            case ev.UserStartedSpeaking():
                self._idle.user(True, now)
            case ev.UserStoppedSpeaking():
                self._idle.user(False, now)
            case ev.TranscriptCompleted():
                for words in input_words(event):
                    self._connections.tell(words)
            case ev.TranscriptFailed(code="not_transcribed"):
                told = "What the user says is not written down by this model."
                self._connections.inform("no_input_transcript", told, once=True)
            case ev.InputHushed() | ev.CallPaused() | ev.CallResumed():
                self._rested(event)
            case ev.TaskDelegated():
                self._delegations.begin(event.delegation_id, event.at_ms)
            case _ if not self._delegations.take_call(event, now):
                self._hear_answer(event, now)

    def _hear_answer(self, event: ev.SessionEvent, now: float) -> None:
        match event:
            case ev.ResponseBegan():
                self._idle.touch(now)
            case ev.ResponseAudible():
                self._wake()
                self._idle.model(True, now)
            case ev.PlayoutEnded():
                self._idle.model(False, now)
        for words in self._words.hear(event, now, self._timeline_ms()):
            self._connections.tell(words)
        self._delegations.hear(event)

    # ------------------------------------------------------------------ the start

    def _ready(self, event: ev.SessionReady) -> None:
        if self.is_started:
            return
        now = self._clock()
        self._time.start(now)
        self._idle.touch(now)
        self._usage_at = now + USAGE_S
        for item in settings.past_items(self.config):
            self._delegations.attempt(partial(self._core.add_item, item))
        self._delegations.offer_tools()
        self._session = self._resource(event.expires_at or 0)
        for connection in self._connections:
            if (told := connection.permissions()) is not None:
                connection.show(wire.Info(code="data_channel_permissions", message=told))
            asked = self._start_event_id if connection.kind == "websocket" else None
            started = wire.LiveStarted(session=self._session, client_event_id=asked or UNSET)
            connection.show(started)
        self.is_started = True
        for code, message in settings.notices(self.config, self._core.abilities):
            self._connections.inform(code, message, once=True)
        for notice in self._held:
            self._connections.inform(notice.code, notice.message)
        self._held.clear()

    def _resource(self, expires_at: int) -> dict[str, Any]:
        return resource(self.config, self._core.session_id, expires_at)

    # ------------------------------------------------------------------ answers and the end

    def _answered(
        self, event: ev.InputMuted | ev.ContextPlaced | ev.Refusal, command: Command | None
    ) -> None:
        match event:
            case ev.InputMuted():
                kind = wire.Muted if event.is_muted else wire.Unmuted
                self._connections.answer(kind, command)
            case ev.ContextPlaced():
                self._connections.answer(
                    wire.APPENDED[event.kind],
                    command,
                    start_ms=event.start_ms,
                    end_ms=event.end_ms,
                )
            case ev.Refusal() if command is not None:
                # It bears the name that this door gave the command.
                event.error.event_id = command.event_id
                command.connection.show(wire.live_error(event.error))

    def _usage_event(self, now: float) -> wire.UsageUpdated:
        abilities = self._core.abilities
        limit = 0 if abilities is None else abilities.context_tokens
        ratio = min(1.0, self._kv_tokens / limit) if limit else 0.0
        return wire.UsageUpdated(
            usage=self._time.usage(now),
            context_window=wire.ContextWindow(usage_ratio=round(ratio, 4)) if ratio else UNSET,
        )

    def _over(self, event: ev.SessionOver) -> None:
        now = self._clock()
        end = ending(event.reason)
        self._is_closing = True
        lost = ProtocolError(
            "The session ended before this was placed.", code="context_injection_incomplete"
        )
        self._connections.give_up(lost)
        if end.code:
            why = ProtocolError(event.message, code=end.code, type="server_error")
            self._connections.tell(wire.live_error(why))
        if self.is_started:
            usage = self._time.usage(now)
            self._connections.tell(
                wire.LiveClosed(reason=end.reason, session=self._session, usage=usage)
            )
        self.close_code = DONE if self.is_started else CLOSE_CODES.get(end.code, DONE)
        self._is_over = True


def _queued(event: ev.QueueMoved) -> str:
    wait = "" if event.eta_s is None else f"; about {event.eta_s:.0f} s"
    return f"All slots are taken: place {event.position} in the queue{wait}."
