"""A session whose model hands tasks to a text model, and says what comes of them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from msgspec.structs import replace

from engine.base import EngineSession, Send
from engine.builtin.call_deltas import CallPart
from engine.builtin.interfaces import ChatFailed, Turn
from engine.builtin.picture_facts import Camera
from engine.delegate.minutes import Minutes
from engine.delegate.numbering import EpochShift
from engine.ingest.messages import SoundHeard, SoundTaker
from engine.ipc import protocol as p

TRANSCRIPT_PATIENCE_S = 3.0
"""How long the words of what the user said are waited for."""
MAX_SAID_CHARS = 2_000
"""Of an answer of the text model, how much is said."""
MIN_HALF_CHARS = 16
"""An answer that is too long for the engine is not cut to less."""
MAX_UNSAID = 16
"""Answers that the model has not said yet."""
MAX_TOLD = 8
"""Texts that it was told to say and that hand nothing over when it says them."""

log = logging.getLogger(__name__)


class TextModel(Protocol):
    def reply(self, turn: Turn) -> AsyncGenerator[str | CallPart, None]:
        """Yield an answer's words and calls; raise `ChatFailed`."""


class DelegatingSession:
    """Stands between the media worker and a session of the engine. Implements `EngineSession`.

    In full duplex it owns the functions: the text model calls them, and what it says in the end
    is given to the engine as commentary. In the other modes it only takes minutes.
    """

    def __init__(
        self,
        session: str,
        config: p.SessionConfig,
        send: Send,
        text_model: TextModel,
        camera: Camera,
        when_said: Sequence[str],
        rule: str | None,
    ) -> None:
        """`rule`: what the engine's model is told of when to hand over; None: it is told nothing,
        not even the session's instructions, since it takes none.
        """
        self._session = session
        self._config = config
        self._send = send
        self._text_model = text_model
        self._camera = camera
        self._when_said = tuple(filter(None, map(_plain, when_said)))
        self._rule = rule
        self._minutes = Minutes()
        self._epochs = EpochShift()
        self._inner: EngineSession | None = None
        self._speaking = 0
        """The number of the engine's response that is being made; 0: none."""
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._is_handing_over = False
        """The engine's model has asked for it while it spoke."""
        self._work: asyncio.Task[None] | None = None
        self._asked: p.CreateResponse | None = None
        """What the work answers, until that is told."""
        self._has_outputs = False
        """What functions gave back waits for the client to ask for an answer."""
        self._unsaid: dict[str, str] = {}
        """What the engine is to say, by our name of it."""
        self._owed: OrderedDict[str, str] = OrderedDict()
        """Requests that are answered when the engine begins to say what has this name."""
        self._told: OrderedDict[str, str] = OrderedDict()
        """What the engine was given to say and did not say yet, by the name under which it was."""
        self._appended = 0
        self._is_closed = False

    def begin(self, inner: EngineSession) -> None:
        """Give the engine's session; once, before any message."""
        self._inner = inner

    @property
    def inner(self) -> EngineSession:
        assert self._inner is not None, "begin() comes first"
        return self._inner

    @property
    def _delegates(self) -> bool:
        return self._config.mode == "full_duplex"

    def inner_config(self) -> p.SessionConfig:
        """What the engine is to know of the settings."""
        config = self._config
        if not self._delegates:
            return config
        told = appendix = ""
        if self._rule is not None:
            told = config.instructions
            appendix = "\n\n".join(filter(None, [config.appendix, self._rule]))
        return replace(
            config,
            instructions=told,
            appendix=appendix,
            tools=(),
            tool_choice="auto",
            tool_name="",
        )

    # ------------------------------------------------------------------ from the media worker

    def handle(self, message: p.SessionMessage) -> None:
        match message:
            case p.UpdateSession(config=config):
                self._update(config)
            case p.CreateResponse() if self._goes_on(message):
                self._begin_work(message)
            case p.CancelResponse(epoch=epoch):
                if epoch >= self._speaking:
                    self._give_up("cancelled", "the client cancelled it")
                self.inner.handle(replace(message, epoch=self._epochs.inner(epoch)))
            case p.Heard():
                self._minutes.heard(message)
                if not self._epochs.is_minted(message.epoch):
                    self.inner.handle(replace(message, epoch=self._epochs.inner(message.epoch)))
            case p.FunctionCallIn() | p.FunctionOutputIn():
                self._take_function(message)
            case _:
                self._note(message)

    def take_sound(self, message: SoundHeard) -> None:
        """As `engine.ingest.messages.SoundTaker`."""
        if isinstance(self.inner, SoundTaker):
            self.inner.take_sound(message)

    async def close(self) -> None:
        self._is_closed = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await self.inner.close()

    def _update(self, config: p.SessionConfig) -> None:
        self._config = config
        if not self._delegates:
            self._give_up("mode", "in this mode the model answers by itself")
        self.inner.handle(p.UpdateSession(self._session, self.inner_config()))

    def _note(self, message: p.SessionMessage) -> None:
        """Pass on what is the engine's, and note what the text model is to know."""
        match message:
            case p.ItemIn():
                self._minutes.written(message)
                message = replace(message, after=self._epochs.inner_name(message.after))
            case p.DeleteItem(item=item):
                self._minutes.delete(item)
                message = replace(message, item=self._epochs.inner_name(item))
            case p.AppendContext(kind="commentary"):
                self._tells(message.request, message.text)
            case p.AppendContext():
                self._appended += 1
                self._minutes.appended(f"append-{self._appended}", message.text)
            case p.ImageIn():
                self._camera.show(message)
        self.inner.handle(message)

    def _take_function(self, message: p.FunctionCallIn | p.FunctionOutputIn) -> None:
        if isinstance(message, p.FunctionCallIn):
            self._minutes.called(
                message.item, message.call_id, message.name, message.arguments, message.after
            )
        elif self._minutes.gave_back(message):
            self._has_outputs = self._delegates
        elif self._delegates:
            told = f"there is no call {message.call_id!r}: its output is not used"
            self._warn("unknown_call", told)
        if not self._delegates:
            self.inner.handle(replace(message, after=self._epochs.inner_name(message.after)))

    def _goes_on(self, asked: p.CreateResponse) -> bool:
        """Whether the text model is to go on with what functions gave back."""
        return self._delegates and self._has_outputs and not asked.is_out_of_band

    # ------------------------------------------------------------------ from the engine

    def hear(self, message: p.FromEngine) -> None:
        """Take a message of the engine's session, and pass on what is not ours."""
        if self._is_closed:
            return
        match message:
            case p.ContextAppended() | p.RequestRefused():
                self._answered(message)
                return
            case p.DelegationCreated():
                if self._delegates:
                    self._is_handing_over = True
                    self._hand_over()
                return
            case p.SpeechStarted(utterance=utterance):
                self._minutes.speech_began(utterance)
            case p.InputTranscript():
                self._minutes.written_down(message)
            case p.ResponseStarted() | p.AudioOut() | p.TextOut() | p.FunctionCallOut():
                message = self._answer(message)
            case p.Interrupt(epoch=epoch):
                message = replace(message, epoch=self._epochs.outer(epoch))
            case p.ResponseDone():
                self._done(replace(message, epoch=self._epochs.outer(message.epoch)))
                return
        self._send(message)

    def _answered(self, message: p.ContextAppended | p.RequestRefused) -> None:
        """Note what became of what the engine was given; pass on what is not ours."""
        name = message.request
        if isinstance(message, p.RequestRefused):
            self._told.pop(name, None)
        if name not in self._unsaid:
            self._send(message)
        elif isinstance(message, p.RequestRefused):
            self._refused(message)
        else:
            del self._unsaid[name]

    def _answer(
        self, message: p.ResponseStarted | p.AudioOut | p.TextOut | p.FunctionCallOut
    ) -> p.ResponseStarted | p.AudioOut | p.TextOut | p.FunctionCallOut:
        """Note what an answer says; return the message as the media worker is to know it."""
        number = self._epochs.outer(message.epoch)
        match message:
            case p.ResponseStarted():
                self._speaking = number
                self._quiet.clear()
                return self._claimed(replace(message, epoch=number))
            case p.TextOut():
                self._minutes.said(number, message.pts, message.text)
            case p.FunctionCallOut(call_id=call_id) if message.last:
                name = p.call_item(call_id)
                self._minutes.called(name, call_id, message.name, message.arguments)
        return message if number == message.epoch else replace(message, epoch=number)

    def _claimed(self, message: p.ResponseStarted) -> p.ResponseStarted:
        """Let the engine's response answer the client's request, whose answer it says."""
        request = self._owed.pop(message.says, "")
        return replace(message, request=request) if request else message

    def _done(self, message: p.ResponseDone) -> None:
        self._send(message)
        if message.epoch != self._speaking:
            return
        self._speaking = 0
        self._quiet.set()
        spoken = self._own_words(message.epoch)
        if self._delegates and any(words in spoken for words in self._when_said):
            self._is_handing_over = True
        if message.status in ("cancelled", "failed"):
            # The user spoke, or the client cut it: nobody waits for what it announced.
            self._is_handing_over = False
        self._hand_over()

    def _own_words(self, number: int) -> str:
        """Return what of a response the engine was not given to say; each text is given once."""
        spoken = _plain(self._minutes.words_of(number))
        for name, told in tuple(self._told.items()):
            if told in spoken:
                spoken = spoken.replace(told, "", 1)
                del self._told[name]
        return spoken

    def _tells(self, name: str, text: str) -> None:
        self._told[name] = _plain(text)
        while len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)

    # ------------------------------------------------------------------ the text model

    def _hand_over(self) -> None:
        """Give the text model what the engine's model has asked for, once that is said."""
        if self._is_handing_over and not self._speaking:
            self._is_handing_over = False
            self._begin_work(None)

    def _begin_work(self, asked: p.CreateResponse | None) -> None:
        """Ask the text model; what it works on is given up, for this comes with all of it."""
        if self._is_closed:
            return
        self._give_up("superseded", "another answer was asked for")
        self._has_outputs = False
        self._asked = asked
        name = f"delegate-{self._session}"
        self._work = asyncio.get_running_loop().create_task(self._run(asked), name=name)

    def _give_up(self, code: str, reason: str) -> None:
        work, self._work = self._work, None
        asked, self._asked = self._asked, None
        if work is not None:
            work.cancel()
        if asked is not None:
            self._send(p.RequestRefused(self._session, asked.request, code, reason))

    async def _run(self, asked: p.CreateResponse | None) -> None:
        try:
            await self._answer_task(asked)
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this session only
            log.exception("session %s failed", self._session)
            told = "internal error of the engine"
            self._send(p.SessionEnded(self._session, "failed", told))

    async def _answer_task(self, asked: p.CreateResponse | None) -> None:
        await self._minutes.settled(TRANSCRIPT_PATIENCE_S)
        instructions = "" if asked is None else asked.instructions
        turn = Turn(
            self._minutes.task(), self._camera, self._config, instructions=instructions, asked=asked
        )
        words: list[str] = []
        calls: dict[str, list[CallPart]] = {}
        try:
            async with aclosing(self._text_model.reply(turn)) as parts:
                async for part in parts:
                    if isinstance(part, CallPart):
                        calls.setdefault(part.call_id, []).append(part)
                    else:
                        words.append(part)
        except ChatFailed as error:
            words, calls = self._failed(error), {}
        while calls and self._speaking:
            # What the engine says would be taken for finished otherwise.
            await self._quiet.wait()
        self._work = self._asked = None
        request = "" if asked is None else asked.request
        if calls:
            self._call(turn, calls, request)
        else:
            self._say("".join(words).strip()[:MAX_SAID_CHARS], request)

    def _failed(self, error: ChatFailed) -> list[str]:
        self._warn("delegation_failed", str(error))
        return [error.spoken]

    def _call(self, turn: Turn, calls: dict[str, list[CallPart]], request: str) -> None:
        """Call functions, in a response between those of the engine."""
        session, number = self._session, self._epochs.mint()
        modality: p.Modality = "audio" if "audio" in self._config.modalities else "text"
        self._send(
            p.ResponseStarted(
                session,
                number,
                "request" if request else "proactive",
                modality=modality,
                request=request,
            )
        )
        for call_id, parts in calls.items():
            name, arguments = parts[0].name, "".join(part.arguments for part in parts)
            self._minutes.called(p.call_item(call_id), call_id, name, arguments)
            self._send(p.FunctionCallOut(session, number, call_id, name, arguments))
        self._send(
            p.ResponseDone(
                session,
                number,
                "completed",
                input_tokens=turn.input_tokens,
                output_tokens=turn.output_tokens,
                input_split=turn.input_split,
                output_split=turn.output_split,
            )
        )

    def _say(self, text: str, request: str) -> None:
        """Have the engine say an answer in its voice."""
        self._appended += 1
        name = f"delegated-{self._appended}"
        self._unsaid[name] = text
        if request:
            self._owed[name] = request
            while len(self._owed) > MAX_UNSAID:
                self._owed.popitem(last=False)
        self._tells(name, text)
        if len(self._unsaid) > MAX_UNSAID:
            self._refused(
                p.RequestRefused(self._session, next(iter(self._unsaid)), "overloaded", "")
            )
        self.inner.handle(p.AppendContext(self._session, "commentary", text, name))

    def _refused(self, message: p.RequestRefused) -> None:
        """The engine does not say an answer, or was interrupted in it; of one that is too long for
        it, it is given the first half."""
        text = self._unsaid.pop(message.request)
        request = self._owed.pop(message.request, "")
        shorter = _first_half(text) if message.code == "append_too_long" else ""
        if shorter:
            self._say(shorter, request)
        elif request:
            self._send(replace(message, request=request))
        elif message.code != "interrupted":
            self._warn("delegation_failed", f"the answer is not said: {message.reason}")

    def _warn(self, code: str, message: str) -> None:
        self._send(p.SessionWarning(self._session, code, message))


def _first_half(text: str) -> str:
    """Return the whole sentences of a text's first half, else its words; empty: it is short."""
    half = len(text) // 2
    if half < MIN_HALF_CHARS:
        return ""
    for end in (r"[.!?…](?=\s)|[。！？]", r"(?=\s)"):
        ends = [found.end() for found in re.finditer(end, text) if found.end() <= half]
        if ends and ends[-1] > half // 2:
            return text[: ends[-1]]
    return text[:half]


def _plain(words: str) -> str:
    """Normalise words for comparison: without capitals and signs, one space between two."""
    return " ".join(re.findall(r"\w+", words.lower()))
