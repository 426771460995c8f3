"""One conversation of the native engine, outside the tensors. Owned by the scheduler's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from engine.audio_output import AudioOutput
from engine.ingest.messages import ListeningNeeds
from engine.ipc.protocol import (
    COMMIT_EMPTY,
    INPUT_HZ,
    MIN_COMMIT_MS,
    FromEngine,
    InputTranscript,
    Modality,
    RequestRefused,
    SessionConfig,
    SessionEnded,
    SessionWarning,
    SpeechCommitted,
    SpeechStarted,
    SpeechStopped,
    UnitDone,
)
from engine.minicpmo.llm.context_window import ContextWarning
from engine.minicpmo.models.code2wav import VoiceBase
from engine.minicpmo.models.unit import CODE_HZ, UnitSpec
from engine.minicpmo.session.audio_input import AudioInput, pcm_of
from engine.minicpmo.session.pending_input import PendingInput
from engine.minicpmo.session.settings import unused
from engine.scribe import Unwritten

NOT_TRANSCRIBED = "the model hears speech without writing it down"
COMMITS_FROM = 1 << 31
"""What is committed by hand has numbers above it, what the detector finds below."""


class SessionFailed(Exception):
    """What was done for one session alone failed; the others are not touched."""

    def __init__(self, session: Session, error: Exception) -> None:
        super().__init__(f"session {session.id}: {error}")
        self.session = session
        self.error = error


class SessionVoice:
    """The voice of a session: how it sounds, and what the language model hears of it."""

    def __init__(self, base: VoiceBase | None, embeddings: Tensor | None) -> None:
        self.base = base
        self.embeddings = embeddings


class Session:
    """What was asked and said; which thoughts run in the slot is for the modes to know."""

    def __init__(
        self,
        session: str,
        slot: int,
        config: SessionConfig,
        seed: int,
        send: Callable[[FromEngine], None],
        *,
        unit: UnitSpec,
        write_down: Callable[[Unwritten], None] | None = None,
    ) -> None:
        """`write_down` sees to the transcript of what is said; None: nobody does."""
        self.id = session
        self.unit = unit
        self.slot = slot
        self.config = config
        self.seed = config.sampling.seed if config.sampling.seed is not None else seed
        self.send = send
        self.output = AudioOutput(session, send, codes_hz=CODE_HZ)
        self._write_down = write_down
        self.audio_input = AudioInput(
            session, config.turn_detection, self._tell_speech, self._said, unit=unit
        )
        self.given = PendingInput(self.warn)
        self._commits = 0
        self._announced = 0
        """The newest utterance whose beginning was told."""
        self.forced_listen = False
        """The client wants no answers for now."""
        self._is_interrupted = False
        """The user spoke over the answer: the unit that is due only listens."""
        self.units = 0
        self.is_over = False
        self.voice = SessionVoice(None, None)
        self._needs = (False, 0, 0)
        """What the ingest process was told last: see `ListeningNeeds`."""
        self._told: set[str] = set()
        """What the client was told of settings that change nothing."""
        self._warn_unused()

    @property
    def speaks(self) -> bool:
        return self.can_speak()

    def can_speak(self, modalities: tuple[Modality, ...] = ()) -> bool:
        """Return whether what has these modalities, or the session's own, has sound."""
        return "audio" in (modalities or self.config.modalities) and self.voice.base is not None

    def reconfigure(self, config: SessionConfig) -> bool:
        """Take new settings; return whether the model has to read what stands before all else
        anew."""
        before, self.config = self.config, config
        was_duplex, is_duplex = (c.mode == "full_duplex" for c in (before, config))
        anew = was_duplex != is_duplex or config.system_text() != before.system_text()
        # In turns the tools are part of the system message.
        anew = anew or (not is_duplex and config.tools != before.tools)
        if config.mode != before.mode:
            # Sound that waits for a unit would wait forever.
            self.audio_input.clear()
        self.audio_input.configure(config.turn_detection)
        self._warn_unused()
        return anew

    def commit(self, request: str = "") -> None:
        """Make one turn of the user of all that was said since the last commit (push to talk)."""
        sound, ended = self.audio_input.commit()
        if len(sound) * 1000 < MIN_COMMIT_MS * INPUT_HZ:
            told = f"there is less than {MIN_COMMIT_MS} ms of sound since the last commit"
            self.refuse(request, COMMIT_EMPTY, told)
            return
        if ended and ended == self._announced:
            # The detector has told of it as of any turn.
            self.given.keep_speech(sound, ended)
            return
        self._commits += 1
        number = COMMITS_FROM + self._commits
        self.given.keep_speech(sound, number)
        self.send(SpeechCommitted(self.id, number))
        self._write(number, pcm_of(sound))

    @property
    def is_interrupted(self) -> bool:
        """The unit that is due only listens."""
        return self._is_interrupted

    def interrupt(self) -> None:
        """Make a listen of the next unit."""
        self._is_interrupted = True

    def take_forced_listen(self) -> bool:
        """Return whether the unit that starts may only listen."""
        interrupted, self._is_interrupted = self._is_interrupted, False
        return interrupted or self.forced_listen

    # ------------------------------------------------------------------ to the client

    def warn(self, code: str, message: str, used: int = 0, limit: int = 0) -> None:
        self.send(SessionWarning(self.id, code, message, used, limit))

    def warn_once(self, code: str, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self.warn(code, message)

    def refuse(self, request: str, code: str, reason: str) -> None:
        """Say that what was asked for comes to nothing."""
        self.send(RequestRefused(self.id, request, code, reason))

    def warn_context(self, warning: ContextWarning | None) -> None:
        if warning is not None:
            share = 100 * warning.used // max(1, warning.limit)
            what = "older parts will be forgotten"
            if self.config.context_policy == "end":
                what = "the call will end"
            self.warn(
                "context_near_limit",
                f"{share} % of what the model can remember is used; beyond it {what}",
                warning.used,
                warning.limit,
            )

    def _said(self, utterance: int, pcm: bytes) -> None:
        """See to the words of an utterance of which the client was told."""
        if self.config.mode != "turn_based" or utterance == self._announced:
            self._write(utterance, pcm)

    def _write(self, utterance: int, pcm: bytes) -> None:
        if self._write_down is not None and self.config.transcribe:
            self._write_down(Unwritten(utterance, pcm, self.config.transcribe_language))
            return
        self.send(
            InputTranscript(self.id, utterance, "", True, NOT_TRANSCRIBED, code="not_transcribed")
        )

    def tell_needs(self, *, over: bool) -> None:
        """Tell the ingest process, where sound comes by one, what it needs to know."""
        heard = self.audio_input
        if not heard.is_ingested:
            return
        end, size = (heard.unit_end, heard.unit_samples) if heard.is_placed else (0, 0)
        told = over, end, size
        if told != self._needs:
            self._needs = told
            # Only a host behind an ingest process gets it, and that sends it on.
            self.send(cast(Any, ListeningNeeds(self.id, over, end, size)))

    def _tell_speech(self, message: FromEngine) -> None:
        """Pass on what was heard. Where the client commits turns, no detected ones are told.

        One that was told to have begun ends for the client in any mode.
        """
        if isinstance(message, SpeechStarted | SpeechStopped):
            is_by_hand = self.config.mode == "turn_based"
            if isinstance(message, SpeechStarted) and not is_by_hand:
                self._announced = message.utterance
            if is_by_hand and message.utterance != self._announced:
                return
        self.send(message)

    def unit_done(self, *, speaks: bool, stages_ms: dict[str, float], kv_tokens: int) -> None:
        """Tell the figures of a unit or a turn."""
        self.units += 1
        self.send(
            UnitDone(
                self.id,
                self.units,
                "speak" if speaks else "listen",
                stages_ms,
                kv_tokens,
                self.audio_input.take_dropped_ms(),
            )
        )

    def end(self, message: str) -> None:
        """End the session: its context is full and must not slide."""
        if not self.is_over:
            self.is_over = True
            self.output.finish("incomplete", message)
            self.send(SessionEnded(self.id, "context_limit", message))

    def _warn_unused(self) -> None:
        for code, message in unused(self.config):
            self.warn_once(code, message)
