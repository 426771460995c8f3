"""The answers of one session: begun, spoken, cut, and truncated to what was heard."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from engine.base import Send
from engine.builtin.album import Album
from engine.builtin.call_deltas import CallPart
from engine.builtin.history import History, Item
from engine.builtin.interfaces import Answerer, AnswerFailed, Speech, Turn
from engine.builtin.speech_output import SpeechOutput
from engine.ipc.protocol import (
    FunctionCallOut,
    Heard,
    Interrupt,
    Modality,
    ResponseDone,
    ResponseStarted,
    call_item,
    response_item,
)

MAX_OUTPUTS = 4
MIN_HEARD_SAMPLES = 24 * 250
"""An answer cut before this was not noticed: what it answered is still open."""

StartTask = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
Trigger = Literal["speech", "request", "proactive"]


class Answers:
    """Owns the answer under way, and the newest ones that may still be playing.

    `on_stages` is told the durations of each answer once it is first heard, `on_goodbye` that the
    user has heard the last one.
    """

    def __init__(
        self,
        session: str,
        history: History,
        album: Album,
        answerer: Answerer,
        *,
        send: Send,
        start_task: StartTask,
        on_stages: Callable[[dict[str, float]], None],
        on_goodbye: Callable[[], None],
    ) -> None:
        self._session = session
        self._history = history
        self._album = album
        self._answerer = answerer
        self._send = send
        self._start_task = start_task
        self._on_stages = on_stages
        self._on_goodbye = on_goodbye
        self._numbered = 0
        self._task: asyncio.Task[None] | None = None
        self._output: SpeechOutput | None = None
        self._calls: dict[str, list[CallPart]] = {}
        """Of the newest answer, by id."""
        self._outputs: deque[tuple[SpeechOutput, Item]] = deque(maxlen=MAX_OUTPUTS)

    @property
    def is_audible(self) -> bool:
        """Part of the newest answer is still to be played."""
        return self._output is not None and not self._output.is_over

    @property
    def waits_for_outputs(self) -> bool:
        """The newest answer has ended with calls: what it said may be heard to its end."""
        return self._output is not None and self._output.is_done and bool(self._calls)

    def take_epoch(self) -> int:
        """Number an answer out of band."""
        self._numbered += 1
        return self._numbered

    def begin(
        self, turn: Turn, trigger: Trigger, utterance: int, begun_s: float, request: str
    ) -> None:
        """Answer `turn`; `begun_s` is the monotonic time from which the user has been waiting."""
        epoch = self.take_epoch()
        output = SpeechOutput(self._session, epoch, self._send, with_audio=turn.with_audio)
        self._output = output
        self._calls = {}
        modality: Modality = "audio" if turn.with_audio else "text"
        self._send(ResponseStarted(self._session, epoch, trigger, utterance, modality, request))
        self._task = self._start_task(self._answer(turn, output, begun_s), "answer")

    async def wait_played(self) -> None:
        """Return when the newest answer has been played to its end."""
        if self._output is not None:
            await self._output.wait_played()

    def interrupt(self, reason: str) -> None:
        """Barge-in: cut the answer under way here and where it is played."""
        if self._output is not None and self.is_audible:
            self._send(Interrupt(self._session, self._output.epoch))
            self._cut(reason)

    def cancel(self, epoch: int) -> None:
        """Cut the answer under way on the client's request, unless it is newer than `epoch`."""
        if self._output is not None and self._output.epoch <= epoch:
            self._cut("client_cancelled")

    def heard(self, message: Heard) -> None:
        """Apply a report of the playout."""
        for output, item in self._outputs:
            if output.epoch != message.epoch:
                continue
            output.on_heard(message.samples, message.final)
            if message.final and output is self._output and not output.is_done:
                self._cut("playout ended")
            if message.final and message.interrupted:
                self._truncate(output, item, message.samples)

    def close(self) -> None:
        if self._output is not None:
            self._output.cut()

    def _truncate(self, output: SpeechOutput, item: Item, samples: int) -> None:
        item.text = output.heard_text(samples)
        if samples < MIN_HEARD_SAMPLES:
            self._history.discard(item)

    async def _answer(self, turn: Turn, output: SpeechOutput, begun_s: float) -> None:
        item = Item(response_item(output.epoch), "assistant", "")
        status: Literal["completed", "failed", "incomplete"] = "completed"
        reason = ""
        await self._album.settled()
        try:
            async with aclosing(self._answerer.answer(turn)) as speeches:
                async for speech in speeches:
                    if isinstance(speech, CallPart):
                        self._call(output.epoch, speech)
                    else:
                        self._say(turn, output, item, begun_s, speech)
                        await output.drained()
        except AnswerFailed as error:
            status, reason = "failed", str(error)
        if not output.has_begun:
            self._on_stages(turn.stages_ms)
        if output.has_begun or not self._calls:
            output.finish()
        else:
            output.skip()
        if turn.incomplete and status == "completed":
            status, reason = "incomplete", turn.incomplete
        self._finish(output, status, reason, turn)
        if turn.ends_session:
            await output.wait_played()
            self._on_goodbye()

    def _call(self, epoch: int, part: CallPart) -> None:
        """Pass on what came of a call; one that is whole is part of the conversation."""
        call_id, name = part.call_id, part.name
        parts = self._calls.setdefault(call_id, [])
        parts.append(part)
        self._send(FunctionCallOut(self._session, epoch, call_id, name, part.arguments, part.last))
        if part.last:
            arguments = "".join(part.arguments for part in parts)
            ident = call_item(call_id)
            self._history.add(Item(ident, "call", arguments, call_id=call_id, name=name))

    def _say(
        self, turn: Turn, output: SpeechOutput, item: Item, begun_s: float, speech: Speech
    ) -> None:
        had_begun = output.has_begun
        output.push(speech)
        if output.has_begun and not had_begun:
            self._history.add(item)
            self._outputs.append((output, item))
            turn.stages_ms["first_audio"] = (time.monotonic() - begun_s) * 1000
            self._on_stages(turn.stages_ms)
        item.text = output.text

    def _finish(
        self,
        output: SpeechOutput,
        status: Literal["completed", "cancelled", "failed", "incomplete"],
        reason: str,
        turn: Turn | None = None,
    ) -> None:
        output.is_done = True
        done = ResponseDone(self._session, output.epoch, status, reason)
        if turn is not None:
            done = msgspec.structs.replace(
                done,
                input_tokens=turn.input_tokens,
                output_tokens=turn.output_tokens,
                input_split=turn.input_split,
                output_split=turn.output_split,
            )
        self._send(done)

    def _cut(self, reason: str) -> None:
        output, self._output = self._output, None
        task, self._task = self._task, None
        if output is None:
            return
        if not output.is_done:
            self._finish(output, "cancelled", reason)
        output.cut()
        if task is not None:
            task.cancel()
