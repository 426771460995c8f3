"""The thread that owns the model: takes messages, runs what is due, step by step, for all slots."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from engine.ingest.messages import SoundHeard
from engine.ipc.protocol import AudioIn, ImageIn, SessionEnded
from engine.minicpmo.modes.modes import Modes
from engine.minicpmo.modes.unit_alignment import PHASES
from engine.minicpmo.runner import Runner
from engine.minicpmo.serving.orders import (
    Closing,
    KeepPrepared,
    Opening,
    Order,
    PreferVoice,
    WithdrawVoice,
)
from engine.minicpmo.serving.session_messages import SessionMessages
from engine.minicpmo.serving.session_voices import SessionVoices
from engine.minicpmo.serving.sessions import Sessions
from engine.minicpmo.session.session import Session, SessionFailed
from engine.minicpmo.speech.pipeline import SpeechPipeline
from engine.minicpmo.speech.voices import VoiceLibrary
from engine.minicpmo.speech.worker import SpeechChunk, SpeechWorker

log = logging.getLogger(__name__)

FAILED = "internal error of the engine"
IDLE_WAIT_S = 0.05
MAX_INBOX = 20_000
SWITCH_INTERVAL_S = 0.0002
NEEDS_EVERY_S = 0.01


class Scheduler:
    """Owns the sessions and the runner. `post` may be called from any thread, the rest is its own.

    A bug in what is done for one session ends that session; one in a step for several ends all
    sessions, with their rows cleared. Where even that fails, as on a GPU after a fault, the thread
    ends and `is_broken` says so: only a new process can help.
    """

    def __init__(
        self,
        runner: Runner,
        pipeline: SpeechPipeline,
        voices: VoiceLibrary,
        *,
        phases: int = PHASES,
    ) -> None:
        """`phases`: groups whose units end together, see `UnitGroups`."""
        self.runner = runner
        self.pipeline = pipeline
        self._speech = SpeechWorker(pipeline, self.post)
        self._modes = Modes(runner, self._speech, phases=phases)
        self._voices = SessionVoices(voices, self._speech, self._modes.turns.is_asked)
        self.sessions = Sessions(runner, self._modes, self._speech, self._voices)
        self._messages = SessionMessages(
            self.sessions, self._modes, calls_functions=runner.model.tokens.calls_functions
        )
        self._inbox: deque[tuple[float, Order]] = deque()
        """With when they came."""
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._is_behind = False
        """It was logged that messages are refused."""
        self._has_broken = False
        self._told_needs = 0.0

    @property
    def is_broken(self) -> bool:
        """One of the threads has ended by an error; nobody is served any more."""
        return self._has_broken or self._speech.is_broken

    def warm_up(self, show: Callable[[str], None]) -> None:
        """Capture every graph; before `start`."""
        self.runner.warm_up(show)
        self._speech.warm_up(show)

    def start(self) -> None:
        # Both threads run Python between calls that release the interpreter's lock; with the
        # default of 5 ms each such call could cost one of them that much.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._speech.start()
        self._thread.start()

    def stop(self) -> None:
        """Finish the step under way and end; blocks until then."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join()
        self._speech.stop()

    def post(self, order: Order) -> None:
        """Hand over a message.

        Beyond `MAX_INBOX` messages sound and pictures are refused; nothing else is.
        """
        is_media = isinstance(order, tuple) and isinstance(order[1], AudioIn | SoundHeard | ImageIn)
        if is_media and len(self._inbox) >= MAX_INBOX:
            if not self._is_behind:
                self._is_behind = True
                log.warning("the model cannot keep up: sound and pictures are refused")
            return
        self._inbox.append((time.monotonic(), order))
        self._wake.set()
        if self._has_broken:
            self._let_go()

    def pending_ms(self) -> float:
        """The longest that a session's sound waits for its unit."""
        return max((s.audio_input.pending_ms for s in self.sessions), default=0)

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:  # noqa: BLE001 - the boundary: whoever asks learns that it is broken
            log.exception("the model's thread has ended")
            self._has_broken = True
            self._let_go()

    def _let_go(self) -> None:
        """Release those who wait for a slot to be clear: no message is taken any more."""
        while True:
            try:
                _, order = self._inbox.popleft()
            except IndexError:
                # Two threads may call this at once.
                return
            if isinstance(order, Closing):
                order.done()

    def _serve(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            self._drain()
            self._tell_needs()
            self._voices.set_due()
            try:
                busy = self._modes.step()
            except SessionFailed as failed:
                self._end_failed(failed.session, failed.error)
                continue
            except Exception:  # noqa: BLE001 - the boundary: what a batch left behind is unknown
                log.exception("a step failed; its sessions end")
                self._fail_all()
                continue
            if not busy and not self._inbox and not self._voices.keep_next():
                self._wake.wait(IDLE_WAIT_S)

    def _drain(self) -> None:
        while self._inbox:
            came, order = self._inbox.popleft()
            match order:
                case Opening():
                    self._guard(order.session, partial(self.sessions.open, order.session))
                case Closing():
                    self.sessions.close(order.slot)
                    order.done()
                case SpeechChunk():
                    self._spoken(order)
                case KeepPrepared() | WithdrawVoice() | PreferVoice():
                    self._voices.order(order)
                case (slot, message):
                    session = self.sessions.find(slot, message.session)
                    if session is not None:
                        take = partial(self._messages.take, session, message, came)
                        self._guard(session, take)

    def _spoken(self, chunk: SpeechChunk) -> None:
        session = self.sessions.find(chunk.request.input.slot, chunk.request.session)
        if session is None:
            return
        if chunk.error is not None:
            self._fail(session)
            return
        self._guard(session, partial(chunk.request.on_chunk, chunk))

    def _guard(self, session: Session, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - the boundary: a bug ends this session only
            self._end_failed(session, error)

    def _end_failed(self, session: Session, error: Exception) -> None:
        log.error("session %s failed", session.id, exc_info=error)
        told = str(error) if isinstance(error, ValueError) else FAILED
        self._fail(session, told)

    def _fail_all(self) -> None:
        # Nobody is told before all are closed: if that fails nothing works any more, and other
        # engines go on with every one of them.
        sessions = tuple(self.sessions)
        for session in sessions:
            self.sessions.close(session.slot)
        for session in sessions:
            session.send(SessionEnded(session.id, "failed", FAILED))

    def _fail(self, session: Session, told: str = FAILED) -> None:
        # It is told first: closing may be what finds out that nothing works any more.
        session.send(SessionEnded(session.id, "failed", told))
        self.sessions.close(session.slot)

    def _tell_needs(self) -> None:
        """Tell the ingest process what it needs to know, now and then."""
        now = time.monotonic()
        if now - self._told_needs < NEEDS_EVERY_S:
            return
        self._told_needs = now
        for session in self.sessions:
            session.tell_needs(over=self._modes.is_answering(session))
