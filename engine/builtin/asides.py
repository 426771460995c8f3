"""Answers out of band: in words, beside what is being said, and without a trace in the history."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Literal

from engine.base import Send
from engine.builtin.album import Album
from engine.builtin.answers import StartTask
from engine.builtin.call_deltas import CallPart
from engine.builtin.interfaces import Answerer, AnswerFailed, Speech, Turn
from engine.ipc.protocol import (
    CreateResponse,
    FunctionCallOut,
    ResponseDone,
    ResponseStarted,
    TextOut,
)

MAX_ASIDES = 4


class Asides:
    """Owns the answers out of band of one session."""

    def __init__(self, session: str, answerer: Answerer, send: Send, start_task: StartTask) -> None:
        self._session = session
        self._answerer = answerer
        self._send = send
        self._start_task = start_task
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def is_full(self) -> bool:
        return len(self._tasks) >= MAX_ASIDES

    def begin(self, epoch: int, turn: Turn, asked: CreateResponse, album: Album) -> None:
        """Answer `turn`, whose pictures are in `album`, a new one if it has items of its own."""
        self._send(
            ResponseStarted(self._session, epoch, "request", modality="text", request=asked.request)
        )
        task = self._start_task(self._answer(epoch, turn, asked, album), "aside")
        self._tasks[epoch] = task
        task.add_done_callback(lambda _: self._tasks.pop(epoch, None))

    def cancel(self, epoch: int) -> bool:
        """End the one with this epoch; returns whether there is one."""
        task = self._tasks.pop(epoch, None)
        if task is None:
            return False
        task.cancel()
        self._send(ResponseDone(self._session, epoch, "cancelled", "client_cancelled"))
        return True

    async def _answer(self, epoch: int, turn: Turn, asked: CreateResponse, album: Album) -> None:
        if asked.input is not None:
            for item in asked.input:
                album.add(item)
            reading = self._start_task(album.run(), "album")
            try:
                await album.settled()
            finally:
                reading.cancel()
        status: Literal["completed", "failed", "incomplete"] = "completed"
        reason = ""
        try:
            async with aclosing(self._answerer.answer(turn)) as parts:
                async for part in parts:
                    self._pass_on(epoch, part)
        except AnswerFailed as error:
            status, reason = "failed", str(error)
        if turn.incomplete and status == "completed":
            status, reason = "incomplete", turn.incomplete
        self._send(TextOut(self._session, epoch, 0, "", last=True))
        self._send(
            ResponseDone(
                self._session,
                epoch,
                status,
                reason,
                turn.input_tokens,
                turn.output_tokens,
                turn.input_split,
                turn.output_split,
            )
        )

    def _pass_on(self, epoch: int, part: Speech | CallPart) -> None:
        session = self._session
        if isinstance(part, CallPart):
            self._send(
                FunctionCallOut(session, epoch, part.call_id, part.name, part.arguments, part.last)
            )
            return
        text = "".join(word for _, word in part.words)
        if text:
            self._send(TextOut(session, epoch, 0, text))
