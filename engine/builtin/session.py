"""One conversation of a cascade: who speaks when, what is answered, what is cut.

Everything here runs on the event loop. `handle` only notes and starts; the work happens in two
kinds of task: the listener, which takes the user's turns in order, and one per answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, Literal

from msgspec import Struct

from engine.base import Send
from engine.builtin.album import Album
from engine.builtin.conversation import Conversation, Item
from engine.builtin.interfaces import AnswerFailed, Parts, Speech, Transcript, Turn
from engine.builtin.picture_facts import Camera
from engine.builtin.settings import Settings
from engine.builtin.speech_input import Ear, Said
from engine.builtin.speech_output import Reply
from engine.ipc.protocol import (
    COMMIT_EMPTY,
    MIN_COMMIT_MS,
    AudioIn,
    CancelResponse,
    ClearAudio,
    CommitAudio,
    CreateResponse,
    DeleteItem,
    ForceListen,
    FromEngine,
    Heard,
    ImageIn,
    InputTranscript,
    Interrupt,
    ItemIn,
    Modality,
    RequestRefused,
    ResponseDone,
    ResponseStarted,
    SessionConfig,
    SessionEnded,
    SessionMessage,
    SessionWarning,
    UnitDone,
    UpdateSession,
)

MAX_JOBS = 16
MAX_REPLIES = 4
MIN_ANSWERED_MS = 500
"""Shorter sounds without words are taken for noise and left unanswered."""
MIN_HEARD_SAMPLES = 24 * 250
"""An answer cut before this was not noticed: what it answered is still open."""
NOT_FOLLOWED = "so much was heard without a pause that nothing of it was understood"
TOO_MANY_TURNS = "too many turns wait for an answer; the oldest was dropped"

logger = logging.getLogger(__name__)


class _Request(Struct, frozen=True):
    """Answer what the conversation holds."""

    instructions: str
    modalities: tuple[Modality, ...]
    name: str


class CascadeSession:
    """Owns the conversation, the answers and the tasks of one session."""

    def __init__(self, session: str, config: SessionConfig, send: Send, parts: Parts) -> None:
        self._session = session
        self._send_raw = send
        self._parts = parts
        self._settings = Settings(session, self._send, parts.has_voice)
        self._config = self._settings.accept(config)
        self._camera = Camera(parts.eyes)
        self._conversation = Conversation()
        self._album = Album(self._conversation, parts.decoder, parts.eyes, self._send)
        self._ear = Ear(session, self._config, self._send, parts.recogniser)
        self._jobs: asyncio.Queue[Said | _Request] = asyncio.Queue(MAX_JOBS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering: asyncio.Task[None] | None = None
        self._reply: Reply | None = None
        self._replies: deque[tuple[Reply, Item]] = deque(maxlen=MAX_REPLIES)
        self._epoch = 0
        self._units = 0
        self._only_listens = False
        self._owes_answer = False
        self._committed: Transcript | None = None
        """What the newest turn that still waits for a request sounded like."""
        self._knows_overload = False
        """The user was told, and nothing was understood since."""
        self._is_closed = False
        self._start_task(self._listen(), "listen")
        self._start_task(self._album.run(), "album")

    # ---------------------------------------------------------------- messages

    def handle(self, message: SessionMessage) -> None:
        if self._is_closed:
            return
        match message:
            case AudioIn(pts=pts, pcm=pcm):
                self._on_audio(pts, pcm)
            case Heard():
                self._on_heard(message)
            case ImageIn():
                if not self._camera.show(message):
                    self._warn("bad_picture", "a picture's size and its data do not agree")
            case ItemIn():
                self._on_item(message)
            case DeleteItem(item=ident):
                if not self._conversation.delete(ident):
                    self._warn("unknown_item", f"there is no item {ident!r}")
            case _:
                self._on_command(message)

    def _on_command(self, message: SessionMessage) -> None:
        match message:
            case UpdateSession(config=config):
                self._update(config)
            case CommitAudio(request=name):
                self._commit(name)
            case ClearAudio():
                self._ear.clear()
            case CreateResponse(instructions=instructions, modalities=modalities, request=name):
                self._interrupt("superseded by a new response")
                self._put(_Request(instructions, modalities, name))
            case CancelResponse(epoch=epoch):
                if self._reply is not None and self._reply.epoch <= epoch:
                    self._cut_reply("client_cancelled")
            case ForceListen(on=on):
                self._only_listens = on
                if on:
                    self._interrupt("forced to listen")
            case _:
                raise AssertionError(message)

    def _on_audio(self, pts: int, pcm: bytes) -> None:
        interrupts = self._config.turn_detection.interrupt_response
        is_audible = self._reply is not None and not self._reply.is_over
        for news in self._ear.push(pts, pcm, strict=is_audible and interrupts):
            if isinstance(news, Said):
                self._put(news)
            elif interrupts:
                self._interrupt("turn_detected")

    def _on_heard(self, message: Heard) -> None:
        for reply, item in self._replies:
            if reply.epoch != message.epoch:
                continue
            reply.on_heard(message.samples, message.final)
            if message.final and reply is self._reply and not reply.is_done:
                self._cut_reply("playout ended")
            if message.final and message.interrupted:
                self._cut_item(reply, item, message.samples)

    def _cut_item(self, reply: Reply, item: Item, samples: int) -> None:
        item.text = reply.heard_text(samples)
        if samples < MIN_HEARD_SAMPLES:
            self._conversation.discard(item)

    def _on_item(self, message: ItemIn) -> None:
        self._album.add(message)
        if message.role == "user":
            self._committed = None

    def _update(self, config: SessionConfig) -> None:
        self._config = self._settings.accept(config)
        for said in self._ear.configure(self._config):
            self._put(said)

    def _commit(self, name: str) -> None:
        said = self._ear.commit()
        if said is None:
            told = f"there is less than {MIN_COMMIT_MS} ms of sound since the last commit"
            self._send(RequestRefused(self._session, name, COMMIT_EMPTY, told))
        else:
            self._put(said)

    def _put(self, job: Said | _Request) -> None:
        if self._jobs.full():
            self._drop(self._jobs.get_nowait())
        self._jobs.put_nowait(job)

    def _drop(self, job: Said | _Request) -> None:
        """Give up a turn that has waited longest."""
        if isinstance(job, Said):
            if job.words is not None:
                job.words.abandon()
            self._tell_transcript(job, Transcript("", error=TOO_MANY_TURNS))
            self._tell_overload(TOO_MANY_TURNS)
        else:
            self._send(RequestRefused(self._session, job.name, "overloaded", TOO_MANY_TURNS))

    def _tell_overload(self, text: str) -> None:
        """Once, until something is understood again."""
        if not self._knows_overload:
            self._warn("overloaded", text)
        self._knows_overload = True

    def _tell_transcript(self, said: Said, transcript: Transcript) -> None:
        if self._config.transcribe:
            text, error = transcript.text, transcript.error
            self._send(InputTranscript(self._session, said.utterance, text, True, error))

    # ---------------------------------------------------------------- the user's turns

    async def _listen(self) -> None:
        while True:
            job = await self._jobs.get()
            if isinstance(job, _Request):
                await self._on_request(job)
            else:
                await self._on_said(job)

    async def _on_request(self, request: _Request) -> None:
        if self._only_listens:
            told = "no response while the session is forced to listen"
            self._send(RequestRefused(self._session, request.name, "listening_only", told))
            return
        self._interrupt("superseded by a new response")
        self._begin_reply(
            "request",
            transcript=self._committed,
            instructions=request.instructions,
            modalities=request.modalities,
            request=request.name,
        )

    async def _on_said(self, said: Said) -> None:
        begun = time.monotonic()
        transcript = await self._transcribe(said)
        stages_ms = {"endpoint": said.endpoint_ms, "asr": (time.monotonic() - begun) * 1000}
        if transcript.text:
            self._conversation.add(Item(f"utterance-{said.utterance}", "user", transcript.text))
        self._tell_transcript(said, transcript)
        knew_overload = self._knows_overload
        if transcript.is_overload:
            self._tell_overload(transcript.error)
        elif transcript.text:
            self._knows_overload = False
        if said.too_long and not transcript.text:
            self._warn("utterance_too_long", NOT_FOLLOWED)
        if transcript.is_overload and knew_overload:
            self._tell_unit("listen", stages_ms)
        elif await self._may_answer(said, transcript):
            self._begin_reply(
                "speech",
                utterance=said.utterance,
                transcript=None if self._owes_answer and not transcript.text else transcript,
                stages_ms=stages_ms,
                ended_s=begun - said.endpoint_ms / 1000,
            )
        else:
            self._committed = transcript if said.words and transcript != Transcript("") else None
            self._tell_unit("listen", stages_ms)

    async def _transcribe(self, said: Said) -> Transcript:
        if said.words is None:
            return Transcript("", error="no speech was heard")
        return await said.words.finish()

    async def _may_answer(self, said: Said, transcript: Transcript) -> bool:
        if not said.wants_answer or not self._config.turn_detection.create_response:
            return False
        is_noise = said.words is None or (
            not (transcript.text or transcript.error) and said.voiced_ms < MIN_ANSWERED_MS
        )
        if is_noise and not self._owes_answer:
            return False
        if self._config.turn_detection.interrupt_response:
            if self._ear.is_speaking:
                # Who goes on speaking is answered when finished, even if it is only noise.
                self._owes_answer = True
                return False
            if self._only_listens:
                return False
            self._interrupt("superseded by a new response")
        elif self._reply is not None:
            await self._reply.wait_played()
        return not self._only_listens

    # ---------------------------------------------------------------- answers

    def _begin_reply(
        self,
        trigger: Literal["speech", "request"],
        *,
        utterance: int = 0,
        transcript: Transcript | None = None,
        instructions: str = "",
        modalities: tuple[Modality, ...] = (),
        request: str = "",
        stages_ms: dict[str, float] | None = None,
        ended_s: float | None = None,
    ) -> None:
        self._epoch += 1
        with_audio = "audio" in (modalities or self._config.modalities)
        turn = Turn(
            self._conversation,
            self._camera,
            self._config,
            voice=self._settings.voice,
            instructions=instructions,
            with_audio=with_audio,
            transcript=transcript,
        )
        turn.stages_ms.update(stages_ms or {})
        reply = Reply(self._session, self._epoch, self._send, with_audio=with_audio)
        self._reply = reply
        self._owes_answer = False
        self._committed = None
        modality: Modality = "audio" if with_audio else "text"
        self._send(
            ResponseStarted(self._session, self._epoch, trigger, utterance, modality, request)
        )
        begun_s = time.monotonic() if ended_s is None else ended_s
        self._answering = self._start_task(self._answer(turn, reply, begun_s), "answer")

    async def _answer(self, turn: Turn, reply: Reply, begun_s: float) -> None:
        item = Item(f"response-{reply.epoch}", "assistant", "")
        status: Literal["completed", "failed", "incomplete"] = "completed"
        reason = ""
        await self._album.settled()
        try:
            async with aclosing(self._parts.answerer.answer(turn)) as speeches:
                async for speech in speeches:
                    self._say(turn, reply, item, begun_s, speech)
                    await reply.drained()
        except AnswerFailed as error:
            status, reason = "failed", str(error)
        if not reply.has_begun:
            self._tell_unit("speak", turn.stages_ms)
        reply.finish()
        if turn.incomplete and status == "completed":
            status, reason = "incomplete", turn.incomplete
        self._finish_reply(reply, status, reason, turn.input_tokens, turn.output_tokens)
        if turn.ends_session:
            await self._leave(reply)

    def _say(self, turn: Turn, reply: Reply, item: Item, begun_s: float, speech: Speech) -> None:
        had_begun = reply.has_begun
        reply.push(speech)
        if reply.has_begun and not had_begun:
            self._conversation.add(item)
            self._replies.append((reply, item))
            turn.stages_ms["first_audio"] = (time.monotonic() - begun_s) * 1000
            self._tell_unit("speak", turn.stages_ms)
        item.text = reply.text

    def _finish_reply(
        self,
        reply: Reply,
        status: Literal["completed", "cancelled", "failed", "incomplete"],
        reason: str,
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        reply.is_done = True
        self._send(
            ResponseDone(self._session, reply.epoch, status, reason, input_tokens, output_tokens)
        )

    async def _leave(self, reply: Reply) -> None:
        await reply.wait_played()
        self._send(SessionEnded(self._session, "goodbye"))
        self._is_closed = True

    def _interrupt(self, reason: str) -> None:
        """Barge-in: cut the answer under way here and where it is played."""
        reply = self._reply
        if reply is None or reply.is_over:
            return
        self._send(Interrupt(self._session, reply.epoch))
        self._cut_reply(reason)

    def _cut_reply(self, reason: str) -> None:
        reply, self._reply = self._reply, None
        task, self._answering = self._answering, None
        if reply is None:
            return
        if not reply.is_done:
            self._finish_reply(reply, "cancelled", reason)
        reply.cut()
        if task is not None:
            task.cancel()

    # ---------------------------------------------------------------- life

    async def close(self) -> None:
        self._is_closed = True
        self._ear.close()
        if self._reply is not None:
            self._reply.cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if isinstance(job, Said) and job.words is not None:
                job.words.abandon()

    def _send(self, message: FromEngine) -> None:
        if not self._is_closed:
            self._send_raw(message)

    def _warn(self, code: str, text: str) -> None:
        self._send(SessionWarning(self._session, code, text))

    def _tell_unit(self, decision: Literal["listen", "speak"], stages_ms: dict[str, float]) -> None:
        self._units += 1
        rounded = {name: round(ms, 1) for name, ms in stages_ms.items()}
        dropped_ms = self._ear.take_dropped_ms()
        self._send(UnitDone(self._session, self._units, decision, rounded, dropped_ms=dropped_ms))

    def _start_task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"{name}-{self._session}")
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.error("session %s failed", self._session, exc_info=error)
        self._send(SessionEnded(self._session, "failed", "an internal error ended the session"))
        self._is_closed = True
