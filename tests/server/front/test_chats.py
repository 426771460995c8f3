"""Chat requests at an engine: what it is asked, what comes of it, and how each trouble is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.host import Host
from engine.ipc import protocol as p
from server.config import ChatConfig
from server.control import EngineAddress
from server.front.broker import Broker
from server.front.chats import ChatDesk, configure
from signaling.chat.answer import CallPiece, ChatUsage, Ended, Sounding, Wording
from signaling.chat.messages import OrderedItem
from signaling.chat.request import ChatOrder, SamplingWish
from signaling.chat.tools import ToolWish, WishedFunction
from signaling.errors import NoFreeSlot, ProtocolError
from signaling.session.items import (
    FunctionCall,
    InputImagePart,
    InputMessage,
    InputTextPart,
)
from tests.engine.fakes import FakeEngine, FakeSession, welcome
from tests.waiting import until

TOOLS = ToolWish(functions=(WishedFunction("look", "looks", {"type": "object"}),))


def asked(*texts: str) -> tuple[OrderedItem, ...]:
    return tuple(
        OrderedItem(InputMessage("user", (InputTextPart(text),)), f"messages.{index}")
        for index, text in enumerate(texts)
    )


def order(**members: Any) -> ChatOrder:
    return ChatOrder(**({"model": "omnicall", "items": asked("hello")} | members))


class Rig:
    """A desk, and an engine whose sessions do as the test says."""

    def __init__(self, folder: Path, desk: ChatDesk, engine: FakeEngine, host: Host) -> None:
        self.desk = desk
        self.broker = desk._broker
        self.engine = engine
        self.host = host

    async def session(self) -> FakeSession:
        """The newest session, once it is asked for an answer."""

        def is_asked() -> bool:
            sessions = list(self.engine.sessions.values())
            return bool(sessions) and any(
                isinstance(message, p.CreateResponse) for message in sessions[-1].heard
            )

        await until(is_asked)
        return list(self.engine.sessions.values())[-1]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    address = EngineAddress("engine-0", f"ipc://{tmp_path}/engine")
    engine = FakeEngine()
    host = Host(engine, address.endpoint, 2)
    broker = Broker(16)
    broker.engine_up(address, 2, None, 1)
    desk = ChatDesk(broker, ChatConfig(), lambda: [host._engine.welcome(2)], lambda: None)
    running = asyncio.create_task(desk.run())
    await asyncio.sleep(0)
    yield Rig(tmp_path, desk, engine, host)
    desk.drain()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await host.close()


async def pieces(rig: Rig, *said: Any, wish: ChatOrder | None = None) -> list[Any]:
    """What comes of an answer in which the engine says this."""
    async with rig.desk.answer(wish or order(), ("someone",)) as (answer, _):
        session = await rig.session()
        session.send(p.ResponseStarted(session.session, 1, "request", request="chat"))
        for make in said:
            session.send(make(session.session))
        found = [await answer.next()]
        while not isinstance(found[-1], Ended):
            found.append(await answer.next())
        return found


def word(text: str) -> Any:
    return lambda session: p.TextOut(session, 1, 0, text)


def done(status: Any = "completed") -> Any:
    return lambda session: p.ResponseDone(session, 1, status, "a reason", 3, 4)


def call(arguments: str, *, last: bool = True) -> Any:
    return lambda session: p.FunctionCallOut(session, 1, "call_1", "look", arguments, last)


async def test_engine_is_told_the_conversation_and_answers_it(rig: Rig) -> None:
    wish = order(items=asked("one", "two"), instructions="Be brief.")
    found = await pieces(rig, word("Hel"), word(""), word("lo."), done(), wish=wish)
    assert found == [Wording("Hel"), Wording("lo."), Ended("stop", ChatUsage(3, 4))]
    session = await rig.session()
    assert session.config.mode == "turn_based" and session.config.instructions == "Be brief."
    assert session.config.modalities == ("text",) and session.session.startswith("chat_")
    texts = [m.parts[0] for m in session.heard if isinstance(m, p.ItemIn)]
    assert texts == [p.TextPart("one"), p.TextPart("two")]
    await until(lambda: rig.host.slots.used == 0)
    assert rig.desk.served_total == 1


async def test_sound_comes_as_the_client_takes_it(rig: Rig) -> None:
    async with rig.desk.answer(order(spoken_as="wav", voice="two"), ()) as (answer, ignored):
        session = await rig.session()
        assert (session.config.voice, session.config.modalities) == ("two", ("audio",))
        session.send(p.ResponseStarted(session.session, 7, "request", request="chat"))
        session.send(p.AudioOut(session.session, 7, 0, b"\1\0" * 10))
        assert await answer.next() == Sounding(b"\1\0" * 10)
        answer.heard(10)
        await until(lambda: isinstance(session.heard[-1], p.Heard))
        assert session.heard[-1] == p.Heard(session.session, 7, 10)
    assert ignored == ()


async def test_large_items_come_in_pieces(rig: Rig) -> None:
    picture = bytes(1_000_000)
    item = InputMessage("user", (InputImagePart("image/png", picture),))
    async with rig.desk.answer(order(items=(OrderedItem(item, "messages.0"),)), ()):
        session = await rig.session()
        assert session.heard[0] == p.ItemIn(
            session.session, "item_0", "user", (p.ImagePart(picture),)
        )


async def test_calls_of_functions_are_passed_on(rig: Rig) -> None:
    wish = order(tools=TOOLS)
    rig.engine.welcome = calls_functions  # type: ignore[method-assign]
    found = await pieces(rig, call("{", last=False), call("}"), done(), wish=wish)
    assert found == [
        CallPiece("call_1", "look", "{", False),
        CallPiece("call_1", "look", "}", True),
        Ended("tool_calls", ChatUsage(3, 4)),
    ]
    config = (await rig.session()).config
    assert config.tools == (p.FunctionTool("look", "looks", '{"type":"object"}'),)


async def test_second_call_is_cut_where_one_is_wanted(rig: Rig) -> None:
    rig.engine.welcome = calls_functions  # type: ignore[method-assign]
    wish = order(tools=msgspec.structs.replace(TOOLS, one_at_most=True))
    found = await pieces(rig, call("{}"), call("{}"), done("cancelled"), wish=wish)
    assert found == [CallPiece("call_1", "look", "{}", True), Ended("tool_calls", ChatUsage(3, 4))]
    session = await rig.session()
    await until(lambda: p.CancelResponse(session.session, 1) in session.heard)


def calls_functions(slots: int) -> p.Welcome:
    return msgspec.structs.replace(welcome(slots), tool_modes=("turn_based",))


async def test_limit_of_tokens_ends_an_answer_as_length(rig: Rig) -> None:
    found = await pieces(rig, word("Hel"), done("incomplete"))
    assert found[-1] == Ended("length", ChatUsage(3, 4))


async def test_stopped_answer_says_no_more(rig: Rig) -> None:
    async with rig.desk.answer(order(), ()) as (answer, _):
        session = await rig.session()
        session.send(p.ResponseStarted(session.session, 1, "request", request="chat"))
        session.send(word("one")(session.session))
        assert await answer.next() == Wording("one")
        answer.stop("stop")
        await until(lambda: p.CancelResponse(session.session, 1) in session.heard)
        session.send(word("two")(session.session))
        session.send(done("cancelled")(session.session))
        assert await answer.next() == Ended("stop", ChatUsage(3, 4))


async def test_leaving_closes_the_session_at_once(rig: Rig) -> None:
    async with rig.desk.answer(order(), ()):
        session = await rig.session()
        assert rig.host.slots.used == 1
    assert rig.host.slots.used == 0 and session.closing.is_set()


@pytest.mark.parametrize(
    ("trouble", "status", "code", "param"),
    [
        (lambda s: p.RequestRefused(s, "chat", "overloaded", "busy"), 503, "overloaded", None),
        (
            lambda s: p.PartLeftOut(s, "item_0", 2, "unreadable"),
            *(400, "unsupported_content", "messages.0.content.2"),
        ),
        (lambda s: p.SessionWarning(s, "recording_cut", "x"), 400, "too_long", "messages"),
        (
            lambda s: p.SessionWarning(s, "context_length_exceeded", "too long"),
            *(400, "context_length_exceeded", "messages"),
        ),
        (
            lambda s: p.SessionEnded(s, "context_limit"),
            *(400, "context_length_exceeded", "messages"),
        ),
        (lambda s: p.SessionEnded(s, "shutdown", "bye"), 503, "engine_failed", None),
        (done("failed"), 500, "response_failed", None),
    ],
)
async def test_trouble_is_told(
    rig: Rig, trouble: Any, status: int, code: str, param: str | None
) -> None:
    with pytest.raises(ProtocolError) as caught:
        await pieces(rig, trouble)
    error = caught.value
    assert (error.status, error.code, error.param) == (status, code, param)


async def test_answer_to_what_is_left_of_a_request_is_not_told(rig: Rig) -> None:
    left_out = lambda session: p.PartLeftOut(session, "item_0", 0, "unreadable")  # noqa: E731
    with pytest.raises(ProtocolError):
        await pieces(rig, left_out, word("Nothing to see."), done())


async def test_words_before_a_failure_are_told(rig: Rig) -> None:
    async with rig.desk.answer(order(), ()) as (answer, _):
        session = await rig.session()
        for make in (word("one"), done("failed")):
            session.send(make(session.session))
        await until(lambda: answer._fault is not None)
        assert await answer.next() == Wording("one")
        with pytest.raises(ProtocolError):
            await answer.next()


async def test_lost_engine_is_told(rig: Rig) -> None:
    with pytest.raises(ProtocolError) as caught:
        async with rig.desk.answer(order(), ()) as (answer, _):
            await rig.session()
            rig.desk.engine_down(rig.host.endpoint, "it died")
            await answer.next()
    assert (caught.value.status, caught.value.code) == (503, "engine_unavailable")


async def test_stopping_server_tells_those_under_way(rig: Rig) -> None:
    with pytest.raises(ProtocolError):
        async with rig.desk.answer(order(), ()) as (answer, _):
            rig.desk.drain()
            await answer.next()
    with pytest.raises(NoFreeSlot):
        async with rig.desk.answer(order(), ()):
            pass


async def test_engine_without_room_for_chats_lets_nobody_wait(rig: Rig) -> None:
    rig.broker.engine_up(EngineAddress("engine-0", rig.host.endpoint), 2)
    with pytest.raises(ProtocolError) as caught:
        async with rig.desk.answer(order(), ()):
            pass
    assert (caught.value.status, caught.value.code) == (404, "not_supported")


# ---------------------------------------------------------------- what can be asked


def test_what_an_engine_ignores_is_told() -> None:
    able = msgspec.structs.replace(welcome(), honours=("temperature",))
    wish = order(sampling=SamplingWish(temperature=0.5, top_p=0.5, max_output_tokens=5))
    config, ignored = configure(wish, able)
    assert config.sampling == p.Sampling(temperature=0.5, top_p=0.5, max_output_tokens=5)
    assert ignored == ("max_completion_tokens", "top_p")


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        (order(tools=TOOLS), "tools"),
        (order(items=(OrderedItem(FunctionCall("c", "f", "{}"), "messages.4"),)), "messages.4"),
        (order(voice="three"), "audio.voice"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(wish: ChatOrder, param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        configure(wish, welcome())
    assert (caught.value.status, caught.value.param) == (400, param)


def test_tools_that_may_not_be_called_hurt_no_engine() -> None:
    configure(order(tools=msgspec.structs.replace(TOOLS, choice="none")), welcome())


def test_voices_of_others_become_the_default_one_and_that_is_told() -> None:
    config, ignored = configure(order(voice="alloy"), welcome())
    assert (config.voice, ignored) == ("", ("audio.voice",))


async def test_models_are_what_the_engine_is_called(rig: Rig) -> None:
    assert rig.desk.models() == ("omnicall", "fake", "a-fake-engine")
    with pytest.raises(ProtocolError) as caught:
        async with rig.desk.answer(order(model="gpt-4o"), ()):
            pass
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
