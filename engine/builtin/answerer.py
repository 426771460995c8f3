"""The built-in answerer: a responder's text, clause by clause, as speech. Implements `Answerer`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

import numpy as np

from engine.builtin.call_deltas import CallPart
from engine.builtin.clauses import Clause, ClauseSplitter
from engine.builtin.interfaces import AnswerFailed, ChatFailed, Speech, Turn
from engine.builtin.rules import CROWDED, MISHEARD, NOTHING_HEARD, unclear
from engine.builtin.synthesiser import Synthesiser


class Responder(Protocol):
    def reply(self, turn: Turn) -> AsyncGenerator[str | CallPart, None]:
        """Yield the answer's text and the calls of functions as they come."""


class CascadeAnswerer:
    """Stateless: everything of an answer lives in its `Turn` and in the generator."""

    def __init__(
        self, responder: Responder, synthesiser: Synthesiser, languages: Sequence[str] = ("en",)
    ) -> None:
        """`languages`: those that are understood."""
        self._responder = responder
        self._languages = languages
        self._synthesiser = synthesiser

    async def answer(self, turn: Turn) -> AsyncGenerator[Speech | CallPart, None]:
        failure: AnswerFailed | None = None
        begun = time.monotonic()
        try:
            async with aclosing(self._clauses(turn)) as clauses:
                async for clause, is_last in clauses:
                    turn.stages_ms.setdefault("respond", (time.monotonic() - begun) * 1000)
                    if isinstance(clause, CallPart):
                        yield clause
                    else:
                        yield await self._speak(clause, is_last, turn)
        except ChatFailed as error:
            failure = error
            turn.stages_ms.setdefault("respond", (time.monotonic() - begun) * 1000)
            yield await self._speak(Clause(" " + error.spoken), True, turn)
        if failure is not None:
            raise failure

    async def _clauses(self, turn: Turn) -> AsyncGenerator[tuple[Clause | CallPart, bool], None]:
        """The clauses and calls; whether a clause is the last is known only at the end."""
        splitter = ClauseSplitter()
        try:
            async with aclosing(self._texts(turn)) as texts:
                async for text in texts:
                    if isinstance(text, CallPart):
                        # What was begun before it is said before it.
                        for clause in splitter.flush():
                            yield clause, False
                        yield text, False
                        continue
                    for clause in splitter.push(text):
                        yield clause, False
        except ChatFailed:
            for clause in splitter.flush():
                yield clause, False
            raise
        for clause in splitter.flush():
            yield clause, True

    def _texts(self, turn: Turn) -> AsyncGenerator[str | CallPart, None]:
        if turn.says:
            return _once(turn.says)
        if turn.transcript is not None and turn.transcript.is_overload:
            return _once(CROWDED)
        if turn.transcript is not None and turn.transcript.error:
            return _once(MISHEARD)
        if turn.transcript is not None and turn.transcript.doubt == "unclear":
            return _once(unclear(self._languages))
        if turn.transcript is not None and not turn.transcript.text:
            return _once(NOTHING_HEARD)
        return self._responder.reply(turn)

    async def _speak(self, clause: Clause, is_last: bool, turn: Turn) -> Speech:
        if not turn.with_audio:
            return Speech(np.zeros(0, np.int16), ((0, clause.text),), is_last)
        begun = time.monotonic()
        speech = await self._synthesiser.speak(clause, turn.voice, turn.config.speed)
        turn.stages_ms.setdefault("tts", (time.monotonic() - begun) * 1000)
        return Speech(speech.pcm, speech.words, is_last)


async def _once(text: str) -> AsyncGenerator[str | CallPart, None]:
    yield text
