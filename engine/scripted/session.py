"""One conversation by a script: units as the sound comes, turns as they are asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Literal

from engine.base import Send
from engine.hearing.hearing import AnswerCut, Counted, Heard, Hearing
from engine.hearing.vad import Offset
from engine.ipc import protocol as p
from engine.ipc.session_config import unhonoured
from engine.scripted.answer_book import AnswerBook
from engine.scripted.script import Cue, Script, ScriptedAction, ScriptedAnswer, To
from engine.scripted.speaker import ScriptedSpeaker
from engine.scripted.speaking import Planned, Trigger
from engine.scripted.timeline import HeardSpeech, Timeline
from engine.scripted.voice import ScriptVoice

MAX_SPEAKING = 8
"""Texts of a client's being spoken at once."""
NO_WORDS = "the script does not tell what was said"
NO_EFFECT = "has no effect, since a script says what it says"
HONOURS = (
    "mode",
    "modalities",
    "turn_detection",
    "transcribe",
    "context_policy",
    "tools",
    "tool_choice",
)
NO_ANSWER = "the script has no answer to this"


class ScriptedSession:
    """Owns the place in the script and what is heard. On the event loop."""

    def __init__(
        self, session: str, config: p.SessionConfig, send: Send, script: Script, voice: ScriptVoice
    ) -> None:
        self._session = session
        self._config = config
        self._script = script
        self._voice = voice
        self._send_raw = send
        self._is_closed = False
        self._speaker = ScriptedSpeaker(session, config, self._send, script)
        self._told: set[str] = set()
        """Settings that change nothing, of which the client knows."""
        # Later, because a session must be announced as open before anything is said about it.
        asyncio.get_running_loop().call_soon(self._tell_unused)
        self._ears = Hearing(session, config.turn_detection, self._send)
        self._timeline = Timeline(script)
        self._answers = AnswerBook(script)
        self._unit_samples = script.unit_ms * p.INPUT_HZ // 1000
        self._position = 0
        self._unit_end = self._unit_samples
        self._dropped = 0
        self._kept = 0
        """Samples since the last commit."""
        self._utterance = 0
        self._cues: deque[tuple[int, Cue]] = deque()
        self._hearing: HeardSpeech | None = None
        self._committed: ScriptedAnswer | None = None
        self._newest: p.ItemIn | p.FunctionOutputIn | None = None
        self._appended: list[tuple[str, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- messages

    def handle(self, message: p.SessionMessage) -> None:
        if self._is_closed:
            return
        match message:
            case p.AudioIn():
                self._hear(message)
            case p.Heard():
                self._speaker.output.heard(message)
                self._speaker.go_on()
            case p.ItemIn() | p.FunctionOutputIn():
                self._newest = message
            case p.CreateResponse():
                self._respond(message)
            case p.CommitAudio(request=request):
                self._commit(request)
            case p.ClearAudio():
                self._clear()
            case p.AppendContext():
                self._append(message)
            case _:
                self._command(message)

    def _command(self, message: p.SessionMessage) -> None:
        match message:
            case p.UpdateSession(config=config):
                self._update(config)
            case p.CancelResponse(epoch=epoch):
                if epoch >= self._speaker.output.epoch:
                    self._speaker.silence(by_client=True)
            case p.ForceListen(on=on):
                self._speaker.only_listens = on
                if on:
                    self._speaker.silence(by_client=False)
            case p.DeleteItem(item=item):
                if self._newest is not None and self._newest.item == item:
                    self._newest = None
            case p.ImageIn() | p.FunctionCallIn():
                pass  # A script knows beforehand what it will say.
            case _:
                raise AssertionError(message)

    def _update(self, config: p.SessionConfig) -> None:
        if config.mode != self._config.mode:
            self._speaker.silence(by_client=False)
            if "turn_based" in (config.mode, self._config.mode):
                for event in self._ears.stop():
                    self._announce(event)
                    self._take(event)
        self._config = self._speaker.config = config
        self._ears.configure(config.turn_detection)
        self._tell_unused()

    def _tell_unused(self) -> None:
        for name in unhonoured(self._config, HONOURS):
            if name not in self._told:
                self._told.add(name)
                self._speaker.warn("unused_setting", f"{name}: {NO_EFFECT}")

    def _append(self, message: p.AppendContext) -> None:
        if self._config.mode != "full_duplex":
            told = "context is appended in full duplex only"
            self._refuse(message.request, "append_unsupported", told)
            return
        self._appended.append((message.request, self._position))
        if message.kind == "commentary":
            self._speak_aloud(message.text, message.request)

    def _speak_aloud(self, text: str, name: str) -> None:
        if len(self._tasks) >= MAX_SPEAKING:
            self._speaker.warn("overloaded", "too many texts are to be spoken; one was dropped")
            return

        async def speak() -> None:
            speech = await self._voice.speak(text)
            self._speaker.plan(Planned(ScriptedAction(say=text), speech, says=name))

        self._start(speak())

    # ---------------------------------------------------------------- what is heard

    def _hear(self, sound: p.AudioIn) -> None:
        pts, pcm = sound.pts, sound.pcm
        end = pts + len(pcm) // 2
        if end <= self._position:
            return
        self._dropped += max(0, pts - self._position)
        self._kept += end - max(pts, self._position)
        self._position = end
        if self._script.listens:
            over = self._speaker.is_busy and self._config.mode != "turn_based"
            for event in self._ears.push(pts, pcm, over=over, played=sound.played):
                self._announce(event)
                self._take(event)
        if self._config.mode != "full_duplex":
            self._unit_end = end + self._unit_samples
            return
        self._hear_script()
        while self._unit_end <= self._position and not self._is_closed:
            self._unit(self._unit_end)
            self._unit_end += self._unit_samples

    def _announce(self, event: Heard) -> None:
        if isinstance(event, Counted):
            self._utterance += 1
        if self._config.mode == "turn_based":
            return
        if isinstance(event, Counted):
            self._send(p.SpeechStarted(self._session, self._utterance, event.pts))
        elif isinstance(event, Offset):
            self._send(p.SpeechStopped(self._session, self._utterance, event.pts))

    def _take(self, event: Heard) -> None:
        if self._config.mode == "turn_based":
            return
        if isinstance(event, AnswerCut):
            self._speaker.silence(by_client=False)
        elif isinstance(event, Offset):
            answer = self._answers.take("speech") if event.voiced_ms else None
            self._tell_transcript(answer)
            if answer is not None and self._config.turn_detection.create_response:
                self._answer(answer, "speech", utterance=self._utterance)
            else:
                self._committed = answer

    def _spoken_over(self) -> None:
        if self._config.turn_detection.interrupt_response and self._speaker.is_busy:
            self._speaker.silence(by_client=False)

    def _tell_transcript(self, answer: ScriptedAnswer | None) -> None:
        transcribe = self._config.transcribe
        if not transcribe and self._config.mode != "turn_based":
            return
        text = "" if answer is None or not transcribe else answer.heard
        error = "" if text else NO_WORDS
        number = self._utterance
        self._send(
            p.InputTranscript(self._session, number, text, True, error, code="not_transcribed")
        )

    def _clear(self) -> bool:
        """Forget the speech under way; whether there was some."""
        self._kept = 0
        events = self._ears.stop()
        for event in events:
            self._announce(event)
        return bool(events)

    def _commit(self, request: str) -> None:
        kept, self._kept = self._kept, 0
        if kept * 1000 < p.MIN_COMMIT_MS * p.INPUT_HZ:
            told = f"there is less than {p.MIN_COMMIT_MS} ms of sound since the last commit"
            self._refuse(request, p.COMMIT_EMPTY, told)
            return
        if not self._clear() or self._config.mode == "turn_based":
            # Else it is the turn whose beginning was told.
            self._utterance += 1
        self._committed = self._answers.take("speech")
        self._tell_transcript(self._committed)

    # ---------------------------------------------------------------- the script's time

    def _hear_script(self) -> None:
        """Go on with what the script has the user say."""
        for at, cue in self._timeline.due(self._position):
            self._cues.append((at, cue))
            if cue.heard:
                self._begin_hearing(at, cue)
        if self._hearing is not None and not self._hearing.go_on(self._position):
            self._hearing = None

    def _begin_hearing(self, at: int, cue: Cue) -> None:
        if self._hearing is not None:
            self._hearing.stop(at)
        self._utterance += 1
        transcribe = self._config.transcribe
        self._hearing = HeardSpeech(
            self._session, self._send, self._utterance, cue, at, transcribe=transcribe
        )
        self._spoken_over()

    def _unit(self, end: int) -> None:
        """A unit of full duplex is complete."""
        for request, since in self._appended:
            self._send(p.ContextAppended(self._session, request, since, end))
        self._appended.clear()
        while self._cues and self._cues[0][0] <= end:
            self._play(self._cues.popleft()[1])
        dropped_ms, self._dropped = self._dropped * 1000 // p.INPUT_HZ, 0
        self._speaker.unit(dropped_ms)

    def _play(self, cue: Cue) -> None:
        speaker = self._speaker
        if cue.kv_tokens is not None:
            speaker.gauge.set(cue.kv_tokens)
        if cue.warn is not None:
            speaker.warn(cue.warn.code, cue.warn.message)
        if cue.delegate:
            self._send(p.DelegationCreated(self._session, cue.delegate, self._position))
        if (cue.say or cue.calls) and not speaker.only_listens:
            speech = self._voice.known(cue.say)
            tools = self._tools(None)
            speaker.plan(Planned(cue, speech, tools=tools, decisions=cue.decisions))
        else:
            speaker.leave(cue.end)

    # ---------------------------------------------------------------- turns

    def _respond(self, asked: p.CreateResponse) -> None:
        if asked.is_out_of_band:
            self._answer_aside(asked)
            return
        if self._speaker.only_listens:
            told = "no response while the session is forced to listen"
            self._refuse(asked.request, "listening_only", told)
            return
        if not self._speaker.waits_for_outputs:
            self._speaker.silence(by_client=False)
        answer = self._committed or self._answers.take(*self._asked())
        self._committed = self._newest = None
        if answer is None:
            self._refuse(asked.request, "no_answer", NO_ANSWER)
            return
        self._answer(answer, "request", asked=asked)

    def _asked(self) -> tuple[To, str]:
        """What the newest item is, and what it says."""
        match self._newest:
            case p.FunctionOutputIn(output=output):
                return "tool", output
            case p.ItemIn() as item:
                return "text", _words(item)
            case _:
                return "any", ""

    def _answer(
        self,
        answer: ScriptedAnswer,
        trigger: Trigger,
        *,
        utterance: int = 0,
        asked: p.CreateResponse | None = None,
    ) -> None:
        self._speaker.plan(
            Planned(
                answer,
                self._voice.known(answer.say),
                trigger,
                utterance,
                "" if asked is None else asked.request,
                () if asked is None else asked.modalities,
                self._tools(asked),
                ready_s=asyncio.get_running_loop().time() + answer.wait_s,
            )
        )

    def _tools(self, asked: p.CreateResponse | None) -> tuple[p.FunctionTool, ...]:
        """The functions that a response may call."""
        choice, tools = self._config.tool_choice, self._config.tools
        if asked is not None:
            choice = choice if asked.tool_choice is None else asked.tool_choice
            tools = tools if asked.tools is None else asked.tools
        return () if choice == "none" else tools

    def _answer_aside(self, asked: p.CreateResponse) -> None:
        """ScriptedAnswer out of band, in words only."""
        text = "\n".join(_words(item) for item in asked.input or ())
        answer = self._answers.take("aside", text)
        if answer is None:
            self._refuse(asked.request, "no_answer", NO_ANSWER)
            return
        session, epoch = self._session, self._speaker.output.number_aside()
        status: Literal["failed", "completed"] = "failed" if answer.fails else "completed"
        self._send(
            p.ResponseStarted(session, epoch, "request", modality="text", request=asked.request)
        )
        self._send(p.TextOut(session, epoch, 0, answer.say, last=True))
        self._send(p.ResponseDone(session, epoch, status, answer.fails))

    # ---------------------------------------------------------------- life

    def _refuse(self, request: str, code: str, reason: str) -> None:
        self._send(p.RequestRefused(self._session, request, code, reason))

    def _send(self, message: p.FromEngine) -> None:
        if self._is_closed:
            return
        self._is_closed = isinstance(message, p.SessionEnded)
        self._send_raw(message)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _words(item: p.ItemIn) -> str:
    return "\n".join(part.text for part in item.parts if isinstance(part, p.TextPart))
