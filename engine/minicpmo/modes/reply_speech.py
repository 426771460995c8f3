"""Chunks of replies become text, sound and calls of the session's answer."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import Literal

from engine.gpu.timing import Stages, totals
from engine.ipc.protocol import FunctionTool, Modality, TokenSplit, call_item, response_item
from engine.minicpmo.llm.functions import CallError, read_call
from engine.minicpmo.llm.reply import ReplyChunk
from engine.minicpmo.modes.mode import AnswerPart, SessionEntry
from engine.minicpmo.modes.turn_encoding import PendingTurn
from engine.minicpmo.modes.turn_reading import TurnContext
from engine.minicpmo.session.session import Session
from engine.minicpmo.session.turn_history import ToldAnswer
from engine.minicpmo.speech.code2wav import Pcm
from engine.minicpmo.speech.pipeline import NO_SOUND
from engine.minicpmo.speech.worker import SessionSpeech, SpeechChunk


@dataclass(eq=False)
class ReplyUtterance(AnswerPart):
    chunk: ReplyChunk
    kv_tokens: int
    is_silent: bool = False
    """It has no sound, and waits only for those before it."""


class ReplyEntry(SessionEntry):
    """A session that takes turns, and the newest reply on its way out."""

    def __init__(self, session: Session, speech: SessionSpeech) -> None:
        super().__init__(session, speech)
        self.context = TurnContext(session)
        self.has_called = False
        """The newest reply has come to its calls: nothing more of it is said."""
        self.tools: tuple[FunctionTool, ...] = ()
        """Those that the newest reply may call."""
        self.started = 0.0
        """When its turn began to be read, on the monotonic clock."""
        self._is_aloud = False
        self._has_said = False
        """Words or sound of the reply are out."""

    def begin(self, asked: PendingTurn, made_from: TokenSplit, *, aloud: bool) -> None:
        """Open the reply's answer; `aloud`: it is spoken."""
        self._is_aloud = aloud
        self.has_called = self._has_said = False
        self.speech.cancel()
        self.open_output(asked, aloud=aloud)
        output = self.session.output
        output.made_from = made_from
        self.context.answer = ToldAnswer([response_item(output.epoch)])
        self.context.history.add(self.context.answer)

    def open_output(self, asked: PendingTurn, *, aloud: bool) -> None:
        trigger: Literal["speech", "request", "proactive"] = "request"
        if asked.utterance or asked.says:
            trigger = "speech" if asked.utterance else "proactive"
        modality: Modality = "audio" if aloud else "text"
        self.session.output.begin(
            trigger, utterance=asked.utterance, modality=modality, request=asked.request
        )

    def pass_on(self, chunk: ReplyChunk, kv_tokens: int) -> None:
        """Request speech for a complete chunk, or send it as text."""
        self.session.warn_context(chunk.warning)
        if chunk.call:
            self._call(chunk.call)
            if not chunk.is_last:
                return
        utterance = ReplyUtterance(self.speech.generation, chunk, kv_tokens)
        self.speaking.append(utterance)
        utterance.is_silent = not self._is_aloud or self.has_called
        if utterance.is_silent:
            self._send_silent()
            return
        self.has_called = chunk.ends_speech
        on_chunk = partial(self._spoken, utterance)
        ends = chunk.is_last or chunk.ends_speech
        self.speech.say(chunk.ids, chunk.hidden, on_chunk, is_unit=False, ends=ends)

    def _call(self, written: str) -> None:
        """Tell the client of a call, if it can be read."""
        self.has_called = True
        session = self.session
        if not session.output.is_open or session.is_over:
            return
        try:
            name, arguments = read_call(written, self.tools)
        except CallError as error:
            session.warn("malformed_call", f"the model wrote {error}; it is left out")
            return
        call_id = f"call_{secrets.token_hex(8)}"
        if self.context.answer is not None:
            self.context.answer.names.append(call_item(call_id))
        session.output.call(call_id, name, arguments)

    def _send_silent(self) -> None:
        """Send what has no sound, up to the next part that has."""
        while self.speaking:
            utterance = self.speaking[0]
            assert isinstance(utterance, ReplyUtterance)
            if not utterance.is_silent:
                return
            self._send(utterance, NO_SOUND, [])

    def _spoken(self, utterance: ReplyUtterance, chunk: SpeechChunk) -> None:
        if not self.is_closed:
            self._send(utterance, chunk.pcm, chunk.stages)
            self._send_silent()

    def _send(self, utterance: ReplyUtterance, pcm: Pcm, stages: Stages) -> None:
        self.speaking.remove(utterance)
        chunk, output = utterance.chunk, self.session.output
        self.stages += stages
        if not self.is_current(utterance):
            return
        is_something = bool(chunk.text) or len(pcm) > 0
        self._has_said = self._has_said or is_something
        if is_something or not chunk.is_last or self._has_said or not self.has_called:
            output.say(chunk.text, pcm, tokens=len(chunk.ids), last=chunk.is_last)
        if not chunk.is_last:
            return
        output.finish("incomplete" if chunk.by_limit else "completed")
        total_ms = (time.monotonic() - self.started) * 1000
        self.session.unit_done(
            speaks=True,
            stages_ms=totals(self.stages) | {"turn": round(total_ms, 2)},
            kv_tokens=utterance.kv_tokens,
        )
