"""The thread that owns the model: takes messages, runs what is due, step by step, for all slots."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from engine.ingest.messages import SoundHeard
from engine.ipc.protocol import (
    ROOT,
    AppendContext,
    AudioIn,
    CancelResponse,
    ClearAudio,
    CommitAudio,
    ContextAppended,
    CreateResponse,
    DeleteItem,
    ForceListen,
    FunctionCallIn,
    FunctionOutputIn,
    Heard,
    ImageIn,
    SessionConfig,
    SessionEnded,
    UpdateSession,
)
from engine.ipc.supervision import VoiceReport
from engine.minicpmo.modes.background import Background
from engine.minicpmo.modes.full_duplex import FullDuplex
from engine.minicpmo.modes.half_duplex import HalfDuplex
from engine.minicpmo.modes.mode import step
from engine.minicpmo.modes.turn_encoding import PendingTurn
from engine.minicpmo.modes.unit_alignment import PHASES
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.item_decoding import (
    DecodedItem,
    FunctionCalled,
    FunctionReturned,
    ModelMessage,
)
from engine.minicpmo.session.session import Session, SessionFailed, SessionVoice
from engine.minicpmo.speech.pipeline import SpeechPipeline
from engine.minicpmo.speech.voices import PreparedVoice, VoiceLibrary
from engine.minicpmo.speech.worker import SpeechChunk, SpeechWorker

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.05
MAX_INBOX = 20_000
BEFORE = {"instructions": "", "thinking": "You know this; say it only when it is wanted:\n"}
"""What stands before words that are appended."""
SWITCH_INTERVAL_S = 0.0002
NEEDS_EVERY_S = 0.01


@dataclass(frozen=True)
class Opening:
    """A session to begin."""

    session: Session


@dataclass(frozen=True)
class Closing:
    """A session to end; `done` is called when its slot is clear."""

    slot: int
    done: Callable[[], None]


@dataclass(frozen=True)
class KeepPrepared:
    """An uploaded voice to be taken when nothing else is due; `told` is called from the thread."""

    prepared: PreparedVoice
    told: Callable[[VoiceReport], None]


@dataclass(frozen=True)
class WithdrawVoice:
    """An uploaded voice that nobody is to get any more."""

    voice: str


@dataclass(frozen=True)
class PreferVoice:
    """The voice of who names none; empty: the engine's own default."""

    voice: str


VoiceOrder = KeepPrepared | WithdrawVoice | PreferVoice
Order = tuple[int, ModelMessage] | Opening | Closing | SpeechChunk | VoiceOrder


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
        max_context: int,
        *,
        phases: int = PHASES,
    ) -> None:
        """`phases`: groups whose units end together, see `UnitGroups`."""
        self.runner = runner
        self.pipeline = pipeline
        self._speech = SpeechWorker(pipeline, self.post)
        self._voices = voices
        self._duplex = FullDuplex(runner, self._speech, max_context, phases=phases)
        self._turns = HalfDuplex(runner, self._speech, max_context)
        self._background = Background(runner.model.device, self._duplex, self._turns)
        self._sessions: dict[int, Session] = {}
        self._prepared: deque[KeepPrepared] = deque()
        self._voices_due: set[int] = set()
        """Slots that get another voice as soon as they are silent."""
        self._inbox: deque[tuple[float, Order]] = deque()
        """With when they came."""
        self._wake = threading.Event()
        self._appended = 0
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
        return max((s.audio_input.pending_ms for s in tuple(self._sessions.values())), default=0)

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
            if self._voices_due:
                self._set_due_voices()
            try:
                busy = self._step()
            except SessionFailed as failed:
                self._end_failed(failed.session, failed.error)
                continue
            except Exception:  # noqa: BLE001 - the boundary: what a batch left behind is unknown
                log.exception("a step failed; its sessions end")
                self._fail_all()
                continue
            if not busy and not self._inbox and not self._keep_voice():
                self._wake.wait(IDLE_WAIT_S)

    def _step(self) -> bool:
        """Start what is due, then feed all sessions a token; return whether there was work."""
        started = self._duplex.start() or self._background.go_on()
        # Beside units under way a reply's token costs little; alone it would hold up their speech.
        waits = self._duplex.is_speaking() and not self._duplex.is_busy()
        decided = step(self.runner, (self._duplex,) if waits else (self._duplex, self._turns))
        return started or decided

    def _drain(self) -> None:
        while self._inbox:
            came, order = self._inbox.popleft()
            match order:
                case Opening():
                    self._guard(order.session, partial(self._open, order.session))
                case Closing():
                    self._close(order.slot)
                    order.done()
                case SpeechChunk():
                    self._spoken(order)
                case KeepPrepared() | WithdrawVoice() | PreferVoice():
                    self._order_voice(order)
                case (slot, message):
                    session = self._sessions.get(slot)
                    if session is not None and session.id == message.session:
                        self._guard(session, partial(self._take, session, message, came))

    def _order_voice(self, order: VoiceOrder) -> None:
        match order:
            case KeepPrepared():
                self._prepared.append(order)
            case WithdrawVoice():
                self._voices.drop(order.voice)
            case PreferVoice():
                self._voices.prefer(order.voice)

    def _keep_voice(self) -> bool:
        """Take an uploaded voice that waits; return whether there was one."""
        if not self._prepared:
            return False
        order = self._prepared.popleft()
        voice = order.prepared.voice
        try:
            self._voices.keep(order.prepared)
        except Exception:  # noqa: BLE001 - the boundary: a voice costs nothing else
            log.exception("a voice cannot be kept")
            order.told(VoiceReport(voice, "failed", "internal error of the engine"))
        else:
            order.told(VoiceReport(voice, "ready"))
        return True

    def _spoken(self, chunk: SpeechChunk) -> None:
        session = self._sessions.get(chunk.request.input.slot)
        if session is None or session.id != chunk.request.session:
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
        told = str(error) if isinstance(error, ValueError) else "internal error of the engine"
        # It is told first: closing may be what finds out that nothing works any more.
        session.send(SessionEnded(session.id, "failed", told))
        self._close(session.slot)

    def _fail_all(self) -> None:
        for session in tuple(self._sessions.values()):
            self._fail(session)

    def _fail(self, session: Session) -> None:
        session.send(SessionEnded(session.id, "failed", "internal error of the engine"))
        self._close(session.slot)

    # ------------------------------------------------------------------ sessions

    def _open(self, session: Session) -> None:
        self._sessions[session.slot] = session
        self._begin(session)

    def _begin(self, session: Session) -> None:
        session.voice = self._choose_voice(session)
        if session.voice.base is not None:
            self._speech.set_voice(session.slot, session.voice.base)
        self._mode(session).open(session)

    def _choose_voice(self, session: Session) -> SessionVoice:
        name, prompt = session.config.voice, session.option("prompt_voice", "")
        voice, problem = self._voices.choose(name, prompt)
        if problem:
            session.warn("voice_unknown", problem)
        return voice

    def _close(self, slot: int) -> None:
        session = self._sessions.pop(slot, None)
        if session is not None:
            # The object may live until garbage is collected; the voice's memory must not.
            session.voice = SessionVoice(None, None)
            self._voices_due.discard(slot)
            self._duplex.close(slot)
            self._turns.close(slot)
            self.runner.clear(slot)
            self._speech.clear(slot)

    def _mode(self, session: Session) -> FullDuplex | HalfDuplex:
        return self._duplex if session.config.mode == "full_duplex" else self._turns

    def _switch(self, session: Session, message: UpdateSession) -> None:
        before, was = self._mode(session), session.config
        anew = session.reconfigure(message.config)
        if not anew or (isinstance(before, HalfDuplex) and before is self._mode(session)):
            before.configure(session)
            self._revoice(session, was)
            if anew:
                self._turns.change_system(session)
            return
        session.output.cancel()
        if isinstance(before, HalfDuplex):
            before.refuse_asked(session, "context_restarted", "other settings came first")
        else:
            before.refuse_appended(session, "context_restarted", "other settings came first")
        before.close(session.slot)
        self.runner.clear(session.slot)
        self._speech.clear(session.slot)
        self._begin(session)
        session.warn("context_restarted", "these settings begin a new conversation")

    def _revoice(self, session: Session, was: SessionConfig) -> None:
        """Speak with another voice from the next turn on; the conversation goes on.

        What the model heard of a voice in its prompt stays there.
        """
        if session.config.voice == was.voice:
            return
        heard = session.voice.embeddings
        session.voice = SessionVoice(self._choose_voice(session).base, heard)
        self._voices_due.add(session.slot)
        self._set_due_voices()

    def _set_due_voices(self) -> None:
        """Give voices to slots that are silent: a change drops what is still to be said."""
        for slot in tuple(self._voices_due):
            session = self._sessions.get(slot)
            if session is None or session.voice.base is None:
                self._voices_due.discard(slot)
            elif not session.output.is_speaking and not self._turns.is_asked(slot):
                self._speech.set_voice(slot, session.voice.base)
                self._voices_due.discard(slot)

    # ------------------------------------------------------------------ messages

    def _take(self, session: Session, message: ModelMessage, came: float) -> None:
        match message:
            case AudioIn():
                self._hear(session, message, came)
            case SoundHeard():
                self._take_sound(session, message)
            case ImageIn():
                session.see(message)
                if session.config.mode == "full_duplex":
                    self._duplex.saw(session)
            case Heard():
                session.output.heard(message)
            case DecodedItem():
                self._add(session, message)
            case UpdateSession():
                self._switch(session, message)
            case DeleteItem():
                was_there = session.forget_item(message.item)
                if not was_there and not self._turns.delete(session, message.item):
                    session.warn("item_kept", "the model has already read this item")
            case _:
                self._command(session, message)

    def _command(
        self,
        session: Session,
        message: CommitAudio
        | ClearAudio
        | CreateResponse
        | CancelResponse
        | ForceListen
        | AppendContext
        | FunctionCallIn
        | FunctionOutputIn,
    ) -> None:
        match message:
            case CommitAudio() | CreateResponse():
                self._respond(session, message)
            case ClearAudio():
                session.audio_input.clear()
            case CancelResponse():
                # The request does not mean a response that has begun since.
                if message.epoch >= session.output.epoch:
                    self._silence(session, by_client=True)
            case ForceListen():
                session.forced_listen = message.on
                if message.on and session.output.is_speaking:
                    self._silence(session, by_client=False)
            case AppendContext():
                self._append(session, message)
            case FunctionCallIn() | FunctionOutputIn():
                self._function(session, message)

    def _function(self, session: Session, message: FunctionCallIn | FunctionOutputIn) -> None:
        """Keep a call or what it gave back for the next turn."""
        if session.config.mode == "full_duplex" or not self.runner.model.tokens.calls_functions:
            session.warn("tools_unsupported", "functions are called where turns are taken only")
            return
        role: Literal["user", "assistant"]
        part: FunctionCalled | FunctionReturned
        if isinstance(message, FunctionCallIn):
            role, part = "assistant", FunctionCalled(message.name, message.arguments)
        else:
            role, part = "user", FunctionReturned(message.output)
        item = DecodedItem(session.id, message.item, role, (part,), message.after)
        self._add(session, item)

    def _add(self, session: Session, item: DecodedItem) -> None:
        """Keep an item for the next turn, or put it among what the model has read."""
        if not item.after or session.place_item(item):
            if not item.after:
                session.add_item(item)
        elif not self._turns.insert(session, item):
            if item.after != ROOT:
                told = f"there is no item {item.after!r}; {item.item!r} goes to the end"
                session.warn("unknown_place", told)
            session.add_item(item)

    def _append(self, session: Session, message: AppendContext) -> None:
        """Tell the model something beside the turns."""
        if session.config.mode == "full_duplex":
            self._duplex.append(session, message)
        elif message.kind == "commentary":
            self._turns.say(session, message)
        else:
            self._appended += 1
            text = BEFORE[message.kind] + message.text
            session.add_item(DecodedItem(session.id, f"append-{self._appended}", "system", (text,)))
            at = session.audio_input.position
            session.send(ContextAppended(session.id, message.request, at, at))

    def _hear(self, session: Session, message: AudioIn, came: float) -> None:
        is_duplex = session.config.mode == "full_duplex"
        if is_duplex:
            self._duplex.hears(session, len(message.pcm) // 2, came)
        over = self._is_over(session)
        self._follow(
            session,
            session.audio_input.push(
                message.pts,
                message.pcm,
                for_units=is_duplex,
                over=over,
                arrived=came,
                played=message.played,
            ),
        )

    def _take_sound(self, session: Session, message: SoundHeard) -> None:
        """Take sound in which the ingest process has heard."""
        is_duplex = session.config.mode == "full_duplex"
        if is_duplex and message.pcm:
            self._duplex.hears(session, len(message.pcm) // 2, message.arrived)
        self._follow(session, session.audio_input.take(message, for_units=is_duplex))

    def _is_over(self, session: Session) -> bool:
        """Return whether an answer is heard, or about to be, that speech would cut."""
        return session.config.mode != "turn_based" and (
            session.output.is_speaking or self._turns.is_asked(session.slot)
        )

    def _follow(self, session: Session, events: list[str | torch.Tensor]) -> None:
        mode = session.config.mode
        for event in events:
            if mode == "turn_based":
                # The client says where a turn ends and when an answer is cut.
                continue
            if event == "cut":
                self._speaks_over(session)
            elif isinstance(event, torch.Tensor) and mode == "half_duplex":
                self._said(session, event)

    def _tell_needs(self) -> None:
        """Tell the ingest process what it needs to know, now and then."""
        now = time.monotonic()
        if now - self._told_needs < NEEDS_EVERY_S:
            return
        self._told_needs = now
        for session in self._sessions.values():
            session.tell_needs(over=self._is_over(session))

    def _speaks_over(self, session: Session) -> None:
        """End the answer that the user speaks over, also one that was about to begin."""
        if session.output.is_speaking:
            self._silence(session, by_client=False)
        if self._turns.is_asked(session.slot):
            self._turns.withdraw(session)

    def _said(self, session: Session, sound: torch.Tensor) -> None:
        """Keep an utterance [N] that ended in half duplex, and ask for a reply to it."""
        session.audio_input.clear()
        session.keep_speech(sound, session.audio_input.utterances)
        if session.config.turn_detection.create_response:
            self._ask(session, PendingTurn(utterance=session.audio_input.utterances))

    def _respond(self, session: Session, message: CommitAudio | CreateResponse) -> None:
        if session.config.mode == "full_duplex":
            session.items.clear()
            session.refuse(
                message.request,
                "mode",
                "in full duplex the model decides itself when to speak; change the mode for typed "
                "messages and push to talk",
            )
            return
        if isinstance(message, CommitAudio):
            session.commit(message.request)
            return
        if message.is_out_of_band:
            told = "every response here is part of the conversation"
            session.refuse(message.request, "out_of_band_unsupported", told)
            return
        if session.output.is_speaking and not self._turns.waits_for_outputs(session.slot):
            self._silence(session, by_client=False)
        self._ask(
            session,
            PendingTurn(
                instructions=message.instructions,
                modalities=message.modalities,
                request=message.request,
                max_output_tokens=message.max_output_tokens,
                tools=message.tools,
                tool_choice=message.tool_choice,
                tool_name=message.tool_name,
            ),
        )

    def _ask(self, session: Session, asked: PendingTurn) -> None:
        """Have all that the user gave since the last response answered."""
        asked.given = session.take_given()
        self._turns.ask(session, asked)

    def _silence(self, session: Session, *, by_client: bool) -> None:
        """Cut what is being said, in the playback and in the model."""
        if by_client:
            session.output.cancel()
        else:
            session.output.interrupt()
        self._mode(session).interrupt(session)
