"""Decided units of full duplex become text and sound of the session's answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from engine.gpu.timing import Stages, totals
from engine.ipc.protocol import Modality
from engine.minicpmo.llm.duplex_unit import UnitResult
from engine.minicpmo.modes.mode import AnswerPart, SessionEntry
from engine.minicpmo.speech.code2wav import Pcm
from engine.minicpmo.speech.pipeline import NO_SOUND
from engine.minicpmo.speech.worker import SpeechChunk


@dataclass(frozen=True)
class Cause:
    """Why a turn is said; by itself the model needs none."""

    says: str = ""
    """The name of what was appended and is said in it."""
    request: str | None = None
    """The client's name for what it asked for and this answers."""


NO_CAUSE = Cause()


@dataclass(eq=False)
class UnitUtterance(AnswerPart):
    result: UnitResult
    due: float
    """When the unit was complete, on the monotonic clock."""
    stages: Stages
    cause: Cause
    is_open: bool = False
    """Its response was opened before it had a sound."""
    is_told: bool = False
    """A part of its sound is out, and with it its text."""


class UnitSpeech:
    """Speaks decided units. `done` gets the milliseconds since each unit was complete."""

    def __init__(self, done: Callable[[float], None]) -> None:
        self._unit_done = done

    def speak(
        self,
        entry: SessionEntry,
        result: UnitResult,
        due: float,
        *,
        cause: Cause = NO_CAUSE,
        others_follow: bool,
    ) -> None:
        """Request a unit's speech; text and sound are sent as the sound comes."""
        utterance = UnitUtterance(entry.speech.generation, result, due, entry.stages, cause)
        if not entry.speaking:
            # A user who speaks now speaks over the answer.
            self._open(entry, result, cause)
            utterance.is_open = True
        entry.speaking.append(utterance)
        entry.speech.say(
            [token.id for token in result.spoken],
            [token.hidden for token in result.spoken if token.hidden is not None],
            partial(self._spoken, entry, utterance),
            is_unit=True,
            ends=result.end_of_turn,
            starts=result.is_turn_start,
            others_follow=others_follow,
        )

    def finish_silently(
        self, entry: SessionEntry, result: UnitResult, due: float, cause: Cause = NO_CAUSE
    ) -> None:
        """Send a unit that has no sound."""
        if result.wants_speech or result.text:
            self._open(entry, result, cause)
            self._send(entry, result, NO_SOUND)
        self._done(entry, result, due, spoke=bool(result.text), stages=entry.stages)

    def _spoken(self, entry: SessionEntry, utterance: UnitUtterance, chunk: SpeechChunk) -> None:
        """Send the sound of a unit, or of a part of it."""
        if entry.is_closed:
            return
        result = utterance.result
        if entry.is_current(utterance):
            if not utterance.is_open:
                self._open(entry, result, utterance.cause)
                utterance.is_open = True
            self._send(entry, result, chunk.pcm, again=utterance.is_told, more=not chunk.is_last)
            utterance.is_told = True
        if chunk.is_last:
            entry.speaking.remove(utterance)
            stages = [*utterance.stages, *chunk.stages]
            self._done(entry, result, utterance.due, spoke=True, stages=stages)

    def _open(self, entry: SessionEntry, result: UnitResult, cause: Cause) -> None:
        output = entry.session.output
        if result.is_turn_start and output.is_open:
            output.finish("completed")
        if not output.is_open:
            modality: Modality = "audio" if entry.session.speaks else "text"
            if cause.request is None:
                output.begin("proactive", modality=modality, says=cause.says)
            else:
                output.begin("request", modality=modality, request=cause.request)

    def _send(
        self,
        entry: SessionEntry,
        result: UnitResult,
        pcm: Pcm,
        *,
        again: bool = False,
        more: bool = False,
    ) -> None:
        """Send sound, and with its first part the text."""
        output = entry.session.output
        output.made_from = result.made_from
        output.say(
            "" if again else result.text,
            pcm,
            tokens=0 if again else result.num_tokens,
            last=result.end_of_turn and not more,
        )
        if result.end_of_turn and not more:
            output.finish("completed")

    def _done(
        self, entry: SessionEntry, result: UnitResult, due: float, *, spoke: bool, stages: Stages
    ) -> None:
        total_ms = (time.monotonic() - due) * 1000
        self._unit_done(total_ms)
        entry.session.unit_done(
            speaks=spoke,
            stages_ms=totals(stages) | {"unit": round(total_ms, 2)},
            kv_tokens=result.kv_length,
        )
