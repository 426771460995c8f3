"""Tasks of a full-duplex session, answered by a real chat endpoint on loopback: the scripted engine
hands them over and says what comes of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.base import EngineError
from engine.builtin.engine import BuiltinEngine
from engine.config import BuiltinConfig, ChatEndpoint, DelegateConfig
from engine.delegate.delegate import Delegate
from engine.delegate.session import DelegatingSession
from engine.ipc import protocol as p
from engine.scripted.engine import ScriptedEngine
from tests.chat_server import ChatServer, serving_chat
from tests.engine.builtin.rig import SESSION, Caller
from tests.engine.fakes import FakeEngine
from tests.waiting import PATIENCE_S, until

UNIT = bytes(2 * 16_000)
TOOLS = (p.FunctionTool("get_weather", "Tells it."), p.FunctionTool("get_time"))
CONFIG = p.SessionConfig(instructions="Be brief.", tools=TOOLS)
QUESTION = '[[cue]]\nat = 0.5\nheard = "{heard}"\nheard_s = 0.4\n'
HANDS_OVER = '[[cue]]\nat = 1.5\nsay = "Let me  CHECK, please."\n'
WEATHER = QUESTION.format(heard="the get_weather of Rome") + HANDS_OVER


class DelegatingCaller(Caller):
    """Its engine answers with the help of `server`."""

    def __init__(self, server: ChatServer) -> None:
        super().__init__()
        self.server = server

    def text(self, epoch: int) -> str:
        return "".join(out.text for out in self.all(p.TextOut) if out.epoch == epoch)

    async def hear_until(self, kind: type[Any], count: int = 1) -> Any:
        """Let units pass until there are so many messages of this kind; the newest of them."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.all(kind)) < count:
                await self.hear(UNIT, frame=16_000)
                await asyncio.sleep(0.005)
        return self.all(kind)[count - 1]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Of the newest request, without the system message."""
        return list(self.server.requests[-1]["messages"][1:])

    def give_back(self, call_id: str, output: str, request: str = "go") -> None:
        self.session.handle(p.FunctionOutputIn(SESSION, "o", call_id, output))
        self.session.handle(p.CreateResponse(SESSION, request=request))


@asynccontextmanager
async def delegating(
    folder: Path, script: str, config: p.SessionConfig = CONFIG, **settings: Any
) -> AsyncIterator[DelegatingCaller]:
    (folder / "script.toml").write_text(f'sound = "tones"\n{script}')
    engine = ScriptedEngine(str(folder / "script.toml"), 2)
    await engine.start(lambda text: None)
    async with serving_chat() as (server, url):
        chat = ChatEndpoint(url=settings.pop("url", url), timeout_s=PATIENCE_S)
        delegate = Delegate(DelegateConfig(chat=chat, **settings), engine)
        await delegate.start()
        caller = DelegatingCaller(server)
        caller.listens = True
        session = delegate.open(SESSION, 0, config, caller.receive)
        caller.connect(session)
        try:
            yield caller
        finally:
            await session.close()
            await delegate.close()
            await engine.close()


async def test_said_words_hand_a_task_over_whose_answer_is_said(tmp_path: Path) -> None:
    script = QUESTION.format(heard="What is new?") + HANDS_OVER
    async with delegating(tmp_path, script) as caller:
        await caller.hear_until(p.ResponseDone, 2)
        assert caller.text(1) == "Let me  CHECK, please."
        assert caller.text(2) == "You said: What is new?"
        (asked,) = caller.server.requests
        assert "Be brief." in asked["messages"][0]["content"]
        assert caller.messages == [{"role": "user", "content": "What is new?"}]
        assert [tool["function"]["name"] for tool in asked["tools"]] == ["get_weather", "get_time"]
        assert not caller.all(p.ContextAppended) and not caller.all(p.SessionWarning)


async def test_functions_are_called_between_the_engines_responses(tmp_path: Path) -> None:
    async with delegating(tmp_path, WEATHER) as caller:
        call = await caller.hear_until(p.FunctionCallOut)
        await caller.hear_until(p.ResponseDone, 2)
        assert (call.epoch, call.name, call.last) == (2, "get_weather", True)
        assert json.loads(call.arguments) == {"about": "the get_weather of Rome"}
        started = caller.all(p.ResponseStarted)[1]
        assert (started.epoch, started.trigger, started.request) == (2, "proactive", "")
        assert [done.status for done in caller.all(p.ResponseDone)] == ["completed"] * 2
        caller.heard(2, 0, final=True)  # Nothing of it was sound: the engine knows of none.
        caller.give_back(call.call_id, "sunny")
        await caller.hear_until(p.ResponseDone, 3)
        assert caller.text(3) == "I found: sunny."
        said = caller.all(p.ResponseStarted)[2]
        assert (said.epoch, said.request) == (3, "go")
        assert {out.epoch for out in caller.all(p.AudioOut)} == {1, 3}
        roles = [message["role"] for message in caller.messages]
        assert roles == ["user", "assistant", "tool"]


async def test_what_is_said_at_the_clients_word_hands_nothing_over(tmp_path: Path) -> None:
    async with delegating(tmp_path, "") as caller:
        told = "I will now let me check something."
        caller.session.handle(p.AppendContext(SESSION, "commentary", told, "a"))
        await caller.hear_until(p.ResponseDone)
        assert [answer.request for answer in caller.all(p.ContextAppended)] == ["a"]
        await caller.hear_until(p.UnitDone, 12)
        assert caller.text(1) == told and caller.server.requests == []


async def test_a_text_model_that_repeats_the_words_is_not_asked_again(tmp_path: Path) -> None:
    script = QUESTION.format(heard="Let me check?") + HANDS_OVER
    async with delegating(tmp_path, script) as caller:
        await caller.hear_until(p.ResponseDone, 2)
        assert caller.text(2) == "You said: Let me check?"
        await caller.hear_until(p.UnitDone, len(caller.all(p.UnitDone)) + 4)
        assert len(caller.server.requests) == 1


async def test_an_engine_that_delegates_itself_is_answered_and_an_unheard_user_told_of(
    tmp_path: Path,
) -> None:
    script = '[[cue]]\nat = 0.5\nsay = "One moment."\ndelegate = "task"\n'
    async with delegating(tmp_path, script) as caller:
        await caller.hear_until(p.ResponseDone, 2)
        assert caller.all(p.DelegationCreated) == []
        (message,) = caller.messages
        assert message["role"] == "user" and "'One moment.'" in message["content"]


async def test_an_interrupted_announcement_hands_nothing_over(tmp_path: Path) -> None:
    cut = '[[cue]]\nat = 2.5\nheard = "No, wait."\nheard_s = 0.4\n'
    words = " and".join(["one two three four"] * 4)
    script = f'[[cue]]\nat = 0.5\nsay = "Let me check {words}."\n{cut}'
    async with delegating(tmp_path, script) as caller:
        caller.listens = False
        await caller.hear_until(p.UnitDone, 6)
        assert [done.status for done in caller.all(p.ResponseDone)] == ["cancelled"]
        assert caller.server.requests == []


async def test_a_client_that_asks_for_something_else_gets_that(tmp_path: Path) -> None:
    async with delegating(tmp_path, WEATHER + '[[answer]]\nsay = "Yes."\n') as caller:
        await caller.hear_until(p.FunctionCallOut)
        caller.session.handle(p.CreateResponse(SESSION, request="mine"))
        await caller.hear_until(p.ResponseDone, 3)
        answered = caller.all(p.ResponseStarted)[2]
        assert (answered.epoch, answered.request, caller.text(3)) == (3, "mine", "Yes.")
        caller.session.handle(p.FunctionOutputIn(SESSION, "o", "unknown", "x"))
        assert caller.all(p.SessionWarning)[-1].code == "unknown_call"


async def test_a_newer_request_takes_the_place_of_one_that_is_worked_on(tmp_path: Path) -> None:
    async with delegating(tmp_path, WEATHER) as caller:
        call = await caller.hear_until(p.FunctionCallOut)
        await caller.hear_until(p.ResponseDone, 2)
        caller.give_back(call.call_id, "sunny", "first")
        caller.give_back(call.call_id, "rainy", "second")
        refused = caller.all(p.RequestRefused)
        assert [(answer.request, answer.code) for answer in refused] == [("first", "superseded")]
        await caller.hear_until(p.ResponseDone, 3)
        assert caller.all(p.ResponseStarted)[2].request == "second"
        # A change of mode ends what only full duplex has.
        caller.give_back(call.call_id, "snowy", "third")
        turns = p.SessionConfig(mode="turn_based")
        caller.session.handle(p.UpdateSession(SESSION, turns))
        assert caller.all(p.RequestRefused)[-1].request == "third"
        caller.session.handle(p.CreateResponse(SESSION, request="fourth"))
        assert caller.all(p.RequestRefused)[-1].request == "fourth"


async def test_an_endpoint_that_cannot_be_reached_is_told_of_in_words(tmp_path: Path) -> None:
    async with delegating(tmp_path, HANDS_OVER, url="http://127.0.0.1:9/v1") as caller:
        await caller.hear_until(p.ResponseDone, 2)
        assert caller.text(2) == "Sorry, I cannot reach the language model."
        (warning,) = caller.all(p.SessionWarning)
        assert warning.code == "delegation_failed"


async def test_what_the_engine_does_not_say_answers_the_request(tmp_path: Path) -> None:
    async with delegating(tmp_path, WEATHER) as caller:
        call = await caller.hear_until(p.FunctionCallOut)
        await caller.hear_until(p.ResponseDone, 2)
        session = caller.session
        assert isinstance(session, DelegatingSession)
        inner = Unwilling(session)
        session.begin(inner)
        caller.give_back(call.call_id, "sunny")
        await until(lambda: caller.all(p.RequestRefused))
        (refused,) = caller.all(p.RequestRefused)
        assert (refused.request, refused.code) == ("go", "append_too_long")


class Unwilling:
    """A session of an engine that says nothing it is told to."""

    def __init__(self, delegating: DelegatingSession) -> None:
        self._delegating = delegating

    def handle(self, message: p.SessionMessage) -> None:
        if isinstance(message, p.AppendContext):
            told = p.RequestRefused(SESSION, message.request, "append_too_long", "too long")
            self._delegating.hear(told)

    async def close(self) -> None: ...


# ---------------------------------------------------------------- which engines


def welcomed(delegate: Delegate) -> p.Welcome:
    return delegate.welcome(2)


async def test_functions_are_offered_in_full_duplex_and_kept_from_the_engine(
    tmp_path: Path,
) -> None:
    (tmp_path / "script.toml").write_text('sound = "tones"\n')
    config = DelegateConfig(chat=ChatEndpoint(url="http://127.0.0.1:9/v1"))
    engine = ScriptedEngine(str(tmp_path / "script.toml"), 2)
    delegate = Delegate(config, engine)
    welcome = welcomed(delegate)
    assert welcome.tool_modes == ("full_duplex",) and not welcome.delegates
    assert {"instructions", "tools", "tool_choice", "tool_name"} <= set(welcome.honours)
    session = delegate.open(SESSION, 0, CONFIG, lambda message: None)
    assert (session.inner_config().tools, session.inner_config().instructions) == ((), "")
    await session.close()
    await delegate.close()


@pytest.mark.parametrize("kind", ["fake", "builtin"])
async def test_an_engine_that_needs_no_text_model_or_cannot_say_its_words_is_refused(
    kind: str,
) -> None:
    chat = ChatEndpoint(url="http://127.0.0.1:9/v1")
    engine = FakeEngine() if kind == "fake" else BuiltinEngine(BuiltinConfig(chat=chat), 1)
    delegate = Delegate(DelegateConfig(chat=chat), engine)
    with pytest.raises(EngineError, match="delegate.chat.url"):
        await delegate.start()
    await delegate.close()


async def test_a_model_that_takes_instructions_is_told_when_to_hand_over() -> None:
    engine = Instructed()
    delegate = Delegate(DelegateConfig(chat=ChatEndpoint(url="http://127.0.0.1:9/v1")), engine)
    await delegate.start()
    session = delegate.open(SESSION, 0, CONFIG, lambda message: None)
    told = engine.sessions[SESSION].config
    assert told.instructions == "Be brief." and "let me check" in told.appendix
    known = replace(CONFIG, instructions="", appendix="It rains.")
    session.handle(p.UpdateSession(SESSION, known))
    update = engine.sessions[SESSION].heard[-1]
    assert isinstance(update, p.UpdateSession) and update.config.instructions == ""
    # An engine's own instructions stay before it.
    assert update.config.system_text("Own.").startswith("Own.\n\nIt rains.\n\n")
    assert "let me check" in update.config.appendix
    turns = p.SessionConfig(mode="turn_based", instructions="Be brief.", tools=TOOLS)
    session.handle(p.UpdateSession(SESSION, turns))
    assert engine.sessions[SESSION].heard[-1] == p.UpdateSession(SESSION, turns)
    await session.close()
    await delegate.close()


class Instructed(FakeEngine):
    def welcome(self, slots: int) -> p.Welcome:
        return replace(
            super().welcome(slots), appends=("commentary",), honours=("instructions", "mode")
        )
