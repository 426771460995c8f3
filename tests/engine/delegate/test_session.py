"""A delegating session between an engine that tests speak for and a text model that they script."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.builtin.call_deltas import CallPart
from engine.builtin.interfaces import Turn
from engine.builtin.picture_facts import Camera
from engine.delegate.session import DelegatingSession
from engine.ipc import protocol as p
from tests.engine.builtin.rig import SESSION
from tests.waiting import until


class TextModelStub:
    """Gives its answers one after the other; one that is missing fails the test."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = deque(answers)
        self.turns: list[Turn] = []

    async def reply(self, turn: Turn) -> AsyncGenerator[str | CallPart, None]:
        self.turns.append(turn)
        yield self.answers.popleft()


class EngineStub:
    """A session of the engine: keeps what it is told; says what is left to say as it closes."""

    def __init__(self, rig: DelegateRig) -> None:
        self._rig = rig
        self.told: list[p.SessionMessage] = []
        self.last_words = ""
        self.room: int | None = None
        """Characters that it can be given to say at once; None: any number."""

    @property
    def appended(self) -> list[p.AppendContext]:
        return [told for told in self.told if isinstance(told, p.AppendContext)]

    def handle(self, message: p.SessionMessage) -> None:
        self.told.append(message)
        if isinstance(message, p.AppendContext):
            if self.room is not None and len(message.text) > self.room:
                told = p.RequestRefused(SESSION, message.request, "append_too_long", "too long")
                self._rig.session.hear(told)

    async def close(self) -> None:
        if self.last_words:
            self._rig.speak(self.last_words)


class DelegateRig:
    def __init__(self, *answers: str, when_said: Sequence[str] = ("Let me check!",)) -> None:
        self.heard: list[p.FromEngine] = []
        self.model = TextModelStub(answers)
        self.session = DelegatingSession(
            SESSION,
            p.SessionConfig(),
            self.heard.append,
            self.model,
            Camera(ThreadPoolExecutor(1)),
            when_said,
            None,
        )
        self.inner = EngineStub(self)
        self.session.begin(self.inner)
        self._epoch = 0

    def all(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    def speak(self, text: str, says: str = "") -> None:
        """The engine says this, in a response of its own; `says`: because of what has this name."""
        self._epoch += 1
        hear = self.session.hear
        hear(p.ResponseStarted(SESSION, self._epoch, "proactive", says=says))
        hear(p.TextOut(SESSION, self._epoch, 0, text, last=True))
        hear(p.ResponseDone(SESSION, self._epoch, "completed"))

    async def given(self, count: int) -> p.AppendContext:
        """Wait until the engine was given so many texts to say; the newest of them."""
        await until(lambda: len(self.inner.appended) == count)
        return self.inner.appended[-1]


async def passes() -> None:
    """Let tasks run that wait for nothing."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_answer_in_the_very_words_hands_nothing_over_once_and_kills_nothing() -> None:
    rig = DelegateRig("Let me check.", "It rains.", "It snows.")
    rig.speak("Let me check.")
    rig.speak((await rig.given(1)).text)
    assert len(rig.model.turns) == 1
    rig.speak("Let me check.")
    assert (await rig.given(2)).text == "It rains."
    rig.speak("It rains.")
    rig.speak("Let me check again.")
    assert (await rig.given(3)).text == "It snows."
    await rig.session.close()


@pytest.mark.parametrize("code", ["interrupted", "overloaded"])
async def test_what_the_engine_does_not_say_is_no_excuse_for_its_own_words(code: str) -> None:
    rig = DelegateRig("Let me check.", "It rains.")
    rig.speak("Let me check.")
    given = await rig.given(1)
    rig.session.hear(p.RequestRefused(SESSION, given.request, code, "not said"))
    rig.session.handle(p.AppendContext(SESSION, "commentary", "Let me check.", "mine"))
    rig.session.hear(p.RequestRefused(SESSION, "mine", code, "not said"))
    rig.speak("Let me check.")
    assert (await rig.given(3)).text == "It rains."
    await rig.session.close()


async def test_of_an_answer_too_long_for_the_engine_as_much_is_said_as_it_takes() -> None:
    sentences = [f"This is sentence number {n} of them all." for n in range(10, 34)]
    rig = DelegateRig(" ".join(sentences))
    rig.inner.room = 300
    rig.session.handle(p.FunctionCallIn(SESSION, "i", "c", "f", "{}"))
    rig.session.handle(p.FunctionOutputIn(SESSION, "o", "c", "sunny"))
    rig.session.handle(p.CreateResponse(SESSION, request="go"))
    said = await rig.given(3)
    assert (
        said.text == " ".join(sentences[:6]) and len({a.request for a in rig.inner.appended}) == 3
    )
    # What the model says by itself answers nothing.
    rig.speak("By the way.")
    rig.session.hear(p.ContextAppended(SESSION, said.request, 0, 1))
    rig.speak(said.text, says=said.request)
    rig.speak("What else?")
    assert [began.request for began in rig.all(p.ResponseStarted)] == ["", "go", ""]
    assert not rig.all(p.RequestRefused) and not rig.all(p.SessionWarning)
    await rig.session.close()


@pytest.mark.parametrize("answer", ["word " * 100, "字" * 500], ids=["words", "signs"])
async def test_an_answer_without_sentences_is_cut_between_words(answer: str) -> None:
    rig = DelegateRig(answer)
    rig.inner.room = 80
    rig.speak("Let me check.")
    await until(lambda: rig.inner.appended and len(rig.inner.appended[-1].text) <= 80)
    text = rig.inner.appended[-1].text
    assert len(text) > 20 and set(text.split(" ")) <= {"word", text}
    await rig.session.close()


async def test_an_engine_that_takes_nothing_refuses_once() -> None:
    rig = DelegateRig("Much too long. " * 20)
    rig.inner.room = 0
    rig.speak("Let me check.")
    await until(lambda: rig.all(p.SessionWarning))
    assert [warning.code for warning in rig.all(p.SessionWarning)] == ["delegation_failed"]
    await rig.session.close()


async def test_words_of_signs_alone_match_nothing() -> None:
    rig = DelegateRig(when_said=("...", "?!"))
    rig.speak("Hello.")
    await passes()
    assert rig.model.turns == []
    await rig.session.close()


async def test_what_the_engine_says_as_it_closes_begins_nothing() -> None:
    rig = DelegateRig("It rains.")
    rig.inner.last_words = "Let me check."
    await rig.session.close()
    assert rig.heard == []
    rig.session.handle(p.FunctionCallIn(SESSION, "i", "c", "f", "{}"))
    rig.session.handle(p.FunctionOutputIn(SESSION, "o", "c", "sunny"))
    rig.session.handle(p.CreateResponse(SESSION, request="late"))
    await passes()
    assert rig.model.turns == []
