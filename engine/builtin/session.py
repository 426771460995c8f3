"""One conversation of a cascade: turn taking, requests, interruption.

Everything here runs on the event loop. `handle` only notes and starts; the work happens in two
kinds of task: the listener, which takes the user's turns in order, and one per answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, Literal

from engine.base import Send
from engine.builtin.album import Album
from engine.builtin.answers import Answers, Trigger
from engine.builtin.asides import Asides
from engine.builtin.client_items import ClientItems
from engine.builtin.history import History, Item
from engine.builtin.interfaces import Parts, Transcript, Turn
from engine.builtin.picture_facts import Camera
from engine.builtin.settings import Settings
from engine.builtin.speech_input import Said, SpeechInput
from engine.ipc import protocol as p

MAX_JOBS = 16
MIN_ANSWERED_MS = 500
"""Shorter sounds without words are taken for noise and left unanswered."""
NOT_FOLLOWED = "so much was heard without a pause that nothing of it was understood"
NOT_WANTED = "the settings ask for no transcripts"
SUPERSEDED = "superseded by a new response"
TOO_MANY_TURNS = "too many turns wait for an answer; the oldest was dropped"

logger = logging.getLogger(__name__)


def unwritten(session: str, utterance: int) -> p.InputTranscript:
    """What is told in the place of a transcript that is not wanted."""
    return p.InputTranscript(session, utterance, "", True, NOT_WANTED, code="not_transcribed")


Job = Said | p.CreateResponse | p.AppendContext


class CascadeSession:
    """Owns the conversation, the answers and the tasks of one session."""

    def __init__(self, session: str, config: p.SessionConfig, send: Send, parts: Parts) -> None:
        self._session = session
        self._parts = parts
        self._send_raw = send
        self._settings = Settings(session, self._send, parts.has_voice, parts.honours)
        self._config = self._settings.accept(config)
        self._camera = Camera(parts.eyes, parts.reader, parts.reading)
        self._history = History(self._config.retention)
        self._album = Album(self._history, parts, self._send)
        self._items = ClientItems(
            self._history, self._album, self._settings, has_model=parts.has_model
        )
        self._speech_input = SpeechInput(
            *(session, self._config, self._send, parts.recogniser, self._spoken_over),
            has_model=parts.has_model,
        )
        self._answers = Answers(
            session,
            self._history,
            self._album,
            parts.answerer,
            send=self._send,
            start_task=self._start_task,
            on_stages=lambda stages_ms: self._tell_unit("speak", stages_ms),
            on_goodbye=self._leave,
        )
        self._asides = Asides(session, parts.answerer, self._send, self._start_task)
        self._jobs: asyncio.Queue[tuple[Job, int]] = asyncio.Queue(MAX_JOBS)
        """Each with the history's mark at the time."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._units = 0
        self._only_listens = False
        self._owes_answer = False
        self._committed: Transcript | None = None
        """The transcript of the newest turn that still waits for a request."""
        self._knows_overload = False
        """The user was told, and no speech has been understood since."""
        self._is_closed = False
        self._start_task(self._listen(), "listen")
        self._start_task(self._album.run(), "album")

    # ---------------------------------------------------------------- messages

    def handle(self, message: p.SessionMessage) -> None:
        if self._is_closed:
            return
        match message:
            case p.AudioIn():
                self._on_audio(message)
            case p.Heard():
                self._answers.heard(message)
            case p.ImageIn():
                if not self._camera.show(message):
                    self._warn("bad_picture", "a picture's size and its data do not agree")
            case p.ItemIn() | p.DeleteItem() | p.FunctionCallIn() | p.FunctionOutputIn():
                self._items.take(message)
                if isinstance(message, p.ItemIn) and message.role == "user":
                    self._committed = None
            case _:
                self._on_command(message)

    def _on_command(self, message: p.SessionMessage) -> None:
        match message:
            case p.UpdateSession(config=config):
                self._update(config)
            case p.CommitAudio(request=name):
                self._commit(name)
            case p.ClearAudio():
                self._speech_input.clear()
            case p.CreateResponse():
                self._respond(message)
            case p.CancelResponse(epoch=epoch):
                if not self._asides.cancel(epoch):
                    self._answers.cancel(epoch)
            case p.ForceListen(on=on):
                self._only_listens = on
                if on:
                    self._answers.interrupt("forced to listen")
            case p.AppendContext():
                self._append(message)
            case _:
                raise AssertionError(message)

    def _on_audio(self, sound: p.AudioIn) -> None:
        over = self._answers.is_audible and self._config.mode != "turn_based"
        push = self._speech_input.push
        for news in push(sound.pts, sound.pcm, over=over, played=sound.played):
            if isinstance(news, Said):
                self._put(news)
            else:
                self._spoken_over()

    def _spoken_over(self) -> None:
        self._answers.interrupt("turn_detected")

    def _append(self, message: p.AppendContext) -> None:
        """Tell the model something beside the turns; without one it can only be said."""
        if message.kind == "commentary":
            self._put(message)
        elif self._parts.has_model:
            self._items.append(message)
        else:
            self._refuse(message.request, "append_unsupported", "there is no model to be told")
            return
        at = self._speech_input.position
        self._send(p.ContextAppended(self._session, message.request, at, at))

    def _respond(self, asked: p.CreateResponse) -> None:
        if asked.is_out_of_band:
            self._answer_aside(asked)
            return
        if (asked.tools or asked.tool_choice == "required") and not self._parts.has_model:
            self._settings.warn_tools()
        if not self._answers.waits_for_outputs:
            self._answers.interrupt(SUPERSEDED)
        self._put(asked)

    def _update(self, config: p.SessionConfig) -> None:
        self._config = self._settings.accept(config)
        self._history.retention = self._config.retention
        for said in self._speech_input.configure(self._config):
            self._put(said)

    def _commit(self, name: str) -> None:
        said = self._speech_input.commit()
        if said is None:
            told = f"there is less than {p.MIN_COMMIT_MS} ms of sound since the last commit"
            self._refuse(name, p.COMMIT_EMPTY, told)
        else:
            self._put(said)

    def _put(self, job: Job) -> None:
        if self._jobs.full():
            self._drop(self._jobs.get_nowait()[0])
        self._jobs.put_nowait((job, self._history.mark))

    def _drop(self, job: Job) -> None:
        """Give up the turn that has waited longest."""
        if isinstance(job, Said):
            if job.words is not None:
                job.words.abandon()
            self._tell_transcript(job, Transcript("", error=TOO_MANY_TURNS))
            self._tell_overload(TOO_MANY_TURNS)
        elif isinstance(job, p.CreateResponse):
            self._refuse(job.request, "overloaded", TOO_MANY_TURNS)
        else:
            self._tell_overload(TOO_MANY_TURNS)

    def _tell_overload(self, text: str) -> None:
        """Warn of overload once, until speech is understood again."""
        if not self._knows_overload:
            self._warn("overloaded", text)
        self._knows_overload = True

    def _tell_transcript(self, said: Said, transcript: Transcript) -> None:
        if self._config.transcribe:
            text, error = transcript.text, transcript.error
            self._send(p.InputTranscript(self._session, said.utterance, text, True, error))
        elif self._config.mode == "turn_based":
            # A commit is answered by it, words or not.
            self._send(unwritten(self._session, said.utterance))

    # ---------------------------------------------------------------- the user's turns

    async def _listen(self) -> None:
        while True:
            job, mark = await self._jobs.get()
            match job:
                case p.CreateResponse():
                    await self._on_request(job)
                case p.AppendContext():
                    await self._on_commentary(job)
                case Said():
                    await self._on_said(job, mark)

    async def _on_request(self, asked: p.CreateResponse) -> None:
        if self._only_listens:
            told = "no response while the session is forced to listen"
            self._refuse(asked.request, "listening_only", told)
            return
        if self._answers.waits_for_outputs:
            await self._answers.wait_played()
        self._answers.interrupt(SUPERSEDED)
        self._answer("request", transcript=self._committed, asked=asked)

    async def _on_commentary(self, message: p.AppendContext) -> None:
        """Say it: in the model's words where there is one, else as it is."""
        await self._answers.wait_played()
        if self._only_listens:
            return
        if not self._parts.has_model:
            self._answer("proactive", says=message.text)
            return
        self._items.append(message)
        self._answer("proactive")

    async def _on_said(self, said: Said, mark: int) -> None:
        begun = time.monotonic()
        transcript = await self._transcribe(said)
        stages_ms = {"endpoint": said.endpoint_ms, "asr": (time.monotonic() - begun) * 1000}
        if transcript.text:
            item = Item(p.utterance_item(said.utterance), "user", transcript.text)
            # Its words may come later than what was typed behind it.
            self._history.add_said(item, mark)
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
            self._answer(
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
        is_wordless = not (transcript.text or transcript.error) and (
            said.voiced_ms < MIN_ANSWERED_MS or transcript.doubt == "no_speech"
        )
        is_noise = said.words is None or is_wordless
        if is_noise and not self._owes_answer:
            return False
        detection = self._config.turn_detection
        if detection.interrupt_response and detection.overlap != "hold":
            if self._speech_input.is_speaking:
                # Who goes on speaking is answered when finished, even if it is only noise.
                self._owes_answer = True
                return False
            if self._only_listens:
                return False
            self._answers.interrupt(SUPERSEDED)
        else:
            await self._answers.wait_played()
        return not self._only_listens

    # ---------------------------------------------------------------- answers

    def _answer(
        self,
        trigger: Trigger,
        *,
        utterance: int = 0,
        transcript: Transcript | None = None,
        asked: p.CreateResponse | None = None,
        says: str = "",
        stages_ms: dict[str, float] | None = None,
        ended_s: float | None = None,
    ) -> None:
        modalities = () if asked is None else asked.modalities
        turn = self._turn(
            self._history,
            asked,
            with_audio="audio" in (modalities or self._config.modalities),
            transcript=transcript,
            says=says,
        )
        turn.stages_ms.update(stages_ms or {})
        self._owes_answer = False
        self._committed = None
        begun_s = time.monotonic() if ended_s is None else ended_s
        request = "" if asked is None else asked.request
        self._answers.begin(turn, trigger, utterance, begun_s, request)

    def _turn(
        self,
        history: History,
        asked: p.CreateResponse | None,
        *,
        with_audio: bool,
        transcript: Transcript | None = None,
        says: str = "",
    ) -> Turn:
        return Turn(
            history,
            self._camera,
            self._config,
            voice=self._settings.voice,
            instructions="" if asked is None else asked.instructions,
            with_audio=with_audio,
            transcript=transcript,
            asked=asked,
            says=says,
        )

    def _answer_aside(self, asked: p.CreateResponse) -> None:
        """Answer out of band, in words, while all else goes on."""
        if not self._parts.has_model:
            self._refuse(asked.request, "out_of_band_unsupported", "there is no model to ask")
            return
        if self._asides.is_full:
            self._refuse(asked.request, "overloaded", "too many answers out of band are under way")
            return
        history, album = self._history, self._album
        if asked.input is not None:
            history = History()
            album = Album(history, self._parts, self._send)
        turn = self._turn(history, asked, with_audio=False)
        self._asides.begin(self._answers.take_epoch(), turn, asked, album)

    def _leave(self) -> None:
        self._send(p.SessionEnded(self._session, "goodbye"))
        self._is_closed = True

    # ---------------------------------------------------------------- life

    async def close(self) -> None:
        self._is_closed = True
        self._speech_input.close()
        self._answers.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not self._jobs.empty():
            job, _ = self._jobs.get_nowait()
            if isinstance(job, Said) and job.words is not None:
                job.words.abandon()

    def _send(self, message: p.FromEngine) -> None:
        if not self._is_closed:
            self._send_raw(message)

    def _refuse(self, request: str, code: str, reason: str) -> None:
        self._send(p.RequestRefused(self._session, request, code, reason))

    def _warn(self, code: str, text: str) -> None:
        self._send(p.SessionWarning(self._session, code, text))

    def _tell_unit(self, decision: Literal["listen", "speak"], stages_ms: dict[str, float]) -> None:
        self._units += 1
        rounded = {name: round(ms, 1) for name, ms in stages_ms.items()}
        dropped_ms = self._speech_input.take_dropped_ms()
        self._send(p.UnitDone(self._session, self._units, decision, rounded, dropped_ms=dropped_ms))

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
        self._send(p.SessionEnded(self._session, "failed", "an internal error ended the session"))
        self._is_closed = True
