"""Functions and answers out of band, with a real chat endpoint on loopback that calls functions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.builtin.answerer import CascadeAnswerer
from engine.builtin.call_deltas import MAX_ARGUMENTS_CHARS, CallJoiner, CallPart
from engine.builtin.chat import ChatResponder
from engine.builtin.interfaces import Parts, Transcript
from engine.builtin.session import CascadeSession
from engine.builtin.synthesiser import Synthesiser
from engine.config import ChatEndpoint
from engine.files.decoder import FileDecoder
from engine.ipc import protocol as p
from tests.chat_server import ChatServer, serving_chat
from tests.engine.builtin.rig import SESSION, Caller, Scene, ScriptedRecogniser, say, settle

TOOLS = (
    p.FunctionTool("weather", "Tells it.", '{"type": "object", "properties": {"about": {}}}'),
    p.FunctionTool("time"),
)
TEXT = p.SessionConfig(mode="turn_based", modalities=("text",), tools=TOOLS)
SPOKEN = p.SessionConfig(mode="half_duplex", tools=TOOLS)


class Talk(Caller):
    """A session with the chat server behind it."""

    def __init__(self, server: ChatServer) -> None:
        super().__init__()
        self.server = server
        self._items = 0

    def type(self, text: str, **more: Any) -> str:
        self._items += 1
        name = f"item-{self._items}"
        self.session.handle(
            p.ItemIn(SESSION, name, "user", (p.TextPart(text),), more.get("after", ""))
        )
        return name

    def output(self, call_id: str, text: str) -> None:
        self._items += 1
        name = f"item-{self._items}"
        self.session.handle(p.FunctionOutputIn(SESSION, name, call_id, text))

    async def respond(self, **asked: Any) -> p.ResponseDone:
        count = len(self.all(p.ResponseDone))
        self.session.handle(p.CreateResponse(SESSION, **asked))
        return await self.wait(p.ResponseDone, count + 1)

    def text(self, epoch: int) -> str:
        return "".join(out.text for out in self.all(p.TextOut) if out.epoch == epoch)

    def calls(self, epoch: int) -> dict[str, tuple[str, str]]:
        """Name and arguments of each call of a response, by id."""
        found: dict[str, tuple[str, str]] = {}
        for part in self.all(p.FunctionCallOut):
            if part.epoch == epoch:
                _, before = found.get(part.call_id, ("", ""))
                found[part.call_id] = (part.name, before + part.arguments)
        return found

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Of the newest request, without the system message."""
        messages: list[dict[str, Any]] = self.server.requests[-1]["messages"]
        return messages[1:]


@asynccontextmanager
async def talking(
    config: p.SessionConfig = TEXT, script: tuple[Transcript, ...] = ()
) -> AsyncIterator[Talk]:
    voice, decoder = Synthesiser("en-us", 165), FileDecoder()
    async with serving_chat() as (server, url):
        chat = ChatResponder(ChatEndpoint(url=url, timeout_s=5))
        if "audio" in config.modalities:
            await voice.start()
        await chat.start()
        talk = Talk(server)
        with ThreadPoolExecutor(1) as eyes:
            parts = Parts(
                ScriptedRecogniser(script),
                CascadeAnswerer(chat, voice),
                eyes,
                decoder,
                voice.has_voice,
                has_model=True,
            )
            session = CascadeSession(SESSION, config, talk.receive, parts)
            talk.connect(session)
            try:
                yield talk
            finally:
                await session.close()
                await chat.close()
                await voice.close()
                decoder.close()


# ---------------------------------------------------------------- calls and outputs


async def test_functions_are_offered_called_and_answered() -> None:
    async with talking() as talk:
        talk.type("the weather in Rome")
        done = await talk.respond()
        assert (done.status, talk.text(1)) == ("completed", "Let me see. ")
        ((call_id, (name, arguments)),) = talk.calls(1).items()
        assert (name, json.loads(arguments)) == ("weather", {"about": "the weather in Rome"})
        parts = talk.all(p.FunctionCallOut)
        assert len(parts) > 5 and [part.last for part in parts[-2:]] == [False, True]
        offered = talk.server.requests[0]
        assert offered["tool_choice"] == "auto"
        assert offered["tools"][0]["function"] == {
            "name": "weather",
            "description": "Tells it.",
            "parameters": {"type": "object", "properties": {"about": {}}},
        }
        assert offered["tools"][1]["function"]["parameters"]["type"] == "object"
        talk.output(call_id, "sunny")
        await settle()
        assert len(talk.server.requests) == 1, "an output by itself is not answered"
        await talk.respond()
        assert talk.text(2) == "I found: sunny."
        assert [message["role"] for message in talk.messages] == ["user", "assistant", "tool"]
        assert talk.messages[1]["content"] == "Let me see. "
        assert talk.messages[1]["tool_calls"][0]["id"] == call_id


async def test_two_calls_at_once_are_two() -> None:
    async with talking() as talk:
        talk.type("weather and time")
        await talk.respond()
        calls = talk.calls(1)
        assert [name for name, _ in calls.values()] == ["weather", "time"]
        for call_id, (name, _) in reversed(calls.items()):
            talk.output(call_id, f"{name}!")
        await talk.respond()
        assert talk.text(2) == "I found: weather! and time!."


async def test_a_turn_before_a_late_output_is_answered() -> None:
    async with talking() as talk:
        talk.type("weather")
        await talk.respond()
        (call_id,) = talk.calls(1)
        talk.type("are you there?")
        await talk.respond()
        assert talk.text(2) == "You said: are you there?"
        assert "no result yet" in talk.messages[2]["content"]
        talk.output(call_id, "sunny")
        await talk.respond()
        # The output stands behind its call, so that any endpoint takes it.
        roles = [message["role"] for message in talk.messages]
        assert roles == ["user", "assistant", "tool", "user", "assistant"]
        assert talk.messages[2]["content"] == "sunny"


@pytest.mark.parametrize(
    ("choice", "name", "called"),
    [
        ("none", "", []),
        ("auto", "", ["weather"]),
        ("required", "", ["weather"]),
        ("required", "time", ["time"]),
    ],
)
async def test_the_choice_of_a_response_beats_that_of_the_session(
    choice: p.ToolChoice, name: str, called: list[str]
) -> None:
    async with talking() as talk:
        talk.type("weather")
        await talk.respond(tool_choice=choice, tool_name=name)
        assert [name for name, _ in talk.calls(1).values()] == called


async def test_the_choice_and_the_functions_of_the_session_count() -> None:
    config = p.SessionConfig(
        modalities=("text",), tools=TOOLS, tool_choice="required", tool_name="time"
    )
    async with talking(config) as talk:
        talk.type("hello")
        await talk.respond()
        assert [name for name, _ in talk.calls(1).values()] == ["time"]
        await talk.respond(tools=())
        assert "tools" not in talk.server.requests[-1] and not talk.calls(2)


async def test_what_a_client_replays_is_part_of_the_conversation() -> None:
    async with talking() as talk:
        talk.type("the sky?")
        call = p.FunctionCallIn(SESSION, "c", "old", "weather", "{not json")
        talk.session.handle(call)
        talk.output("old", "blue")
        await talk.respond()
        assert talk.text(1) == "I found: blue."
        assert talk.messages[1]["tool_calls"][0]["function"]["arguments"] == "{}"
        talk.session.handle(p.DeleteItem(SESSION, "c"))
        talk.type("and now?")
        await talk.respond()
        roles = [message["role"] for message in talk.messages]
        assert roles == ["user", "assistant", "user"], "an output without its call is left out"


async def test_an_output_of_no_call_is_told() -> None:
    async with talking() as talk:
        talk.output("nothing", "x")
        assert talk.all(p.SessionWarning)[0].code == "unknown_call"


async def test_items_go_where_they_are_asked_for() -> None:
    async with talking() as talk:
        first = talk.type("one")
        await talk.respond()
        talk.type("three", after=p.response_item(1))
        talk.type("two", after=first)
        talk.type("zero", after=p.ROOT)
        talk.type("four", after="nowhere")
        assert [w.code for w in talk.all(p.SessionWarning)] == ["unknown_place"]
        await talk.respond()
        said = [message["content"] for message in talk.messages]
        assert said == ["zero", "one", "two", "You said: one", "three", "four"]


async def test_what_is_said_before_a_call_is_heard_while_the_function_runs() -> None:
    async with talking(SPOKEN, (Transcript("weather please"),)) as talk:
        await talk.hear(say("what_time"))
        await talk.wait(p.ResponseDone)
        (call_id,) = talk.calls(1)
        talk.output(call_id, "sunny")
        talk.session.handle(p.CreateResponse(SESSION, request="r"))
        await settle(200)
        assert not talk.all(p.Interrupt) and len(talk.all(p.ResponseStarted)) == 1
        end = max(out.pts + len(out.pcm) // 2 for out in talk.all(p.AudioOut))
        talk.heard(1, end, final=True)
        await talk.wait(p.ResponseDone, 2)
        assert talk.text(2) == "I found: sunny." and not talk.all(p.Interrupt)


async def test_a_call_without_words_sends_none() -> None:
    async with talking(SPOKEN) as talk:
        talk.server.requests.clear()
        talk.type("hello")
        module_answer = [{"index": 0, "id": "a", "function": {"name": "time", "arguments": "{}"}}]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "tests.chat_server.answer",
                lambda body: [({"tool_calls": module_answer}, "tool_calls")],
            )
            done = await talk.respond()
        assert done.status == "completed" and list(talk.calls(1)) == ["a"]
        assert not talk.all(p.TextOut) and not talk.all(p.AudioOut)
        talk.output("a", "noon")
        await talk.respond()
        assert talk.text(2) == "I found: noon."


async def test_limits_of_a_response_reach_the_endpoint() -> None:
    sampling = p.Sampling(
        temperature=0.3, top_p=0.5, seed=4, max_output_tokens=77, repetition_penalty=1.2
    )
    async with talking(p.SessionConfig(modalities=("text",), sampling=sampling)) as talk:
        talk.type("hello")
        await talk.respond()
        await talk.respond(max_output_tokens=9)
        first, second = talk.server.requests
        assert (first["temperature"], first["top_p"], first["seed"]) == (0.3, 0.5, 4)
        assert (first["max_tokens"], second["max_tokens"]) == (77, 9)
        assert "tools" not in first


# ---------------------------------------------------------------- out of band and appended


async def test_an_answer_out_of_band_leaves_no_trace() -> None:
    async with talking() as talk:
        talk.type("hello")
        await talk.respond()
        item = p.ItemIn(SESSION, "x", "user", (p.TextPart("name the topic"),))
        await talk.respond(is_out_of_band=True, input=(item,), request="aside")
        assert talk.text(2) == "You said: name the topic"
        assert [message["content"] for message in talk.messages] == ["name the topic"]
        await talk.respond(is_out_of_band=True)
        assert [message["content"] for message in talk.messages] == ["hello", "You said: hello"]
        talk.type("again")
        await talk.respond()
        assert [m["content"] for m in talk.messages] == ["hello", "You said: hello", "again"]
        started = [(s.epoch, s.modality, s.request) for s in talk.all(p.ResponseStarted)]
        assert started[1] == (2, "text", "aside")


async def test_an_answer_out_of_band_goes_on_beside_what_is_said() -> None:
    async with talking(SPOKEN) as talk:
        talk.type("hello there, how are you")
        await talk.respond()
        await talk.respond(is_out_of_band=True, tool_choice="required", tool_name="time")
        assert talk.text(2) == "Let me see. "
        assert [name for name, _ in talk.calls(2).values()] == ["time"]
        assert not talk.all(p.Interrupt)
        talk.session.handle(p.CancelResponse(SESSION, 1))
        talk.heard(1, 24_000, final=True, interrupted=True)


async def test_an_answer_out_of_band_is_cancelled_alone() -> None:
    async with talking(SPOKEN) as talk:
        talk.type("hello")
        talk.session.handle(p.CreateResponse(SESSION))
        await talk.wait(p.ResponseStarted)
        talk.session.handle(p.CreateResponse(SESSION, is_out_of_band=True))
        talk.session.handle(p.CancelResponse(SESSION, 2))
        first = talk.all(p.ResponseDone)[0]
        assert (first.epoch, first.status) == (2, "cancelled")
        done = await talk.wait(p.ResponseDone, 2)
        assert (done.epoch, done.status) == (1, "completed")


async def test_an_answer_out_of_band_that_is_cancelled_leaves_no_task() -> None:
    """Neither when its own pictures are still being read."""
    async with talking(SPOKEN) as talk:
        before = asyncio.all_tasks()
        picture = p.ItemIn(SESSION, "own", "user", (p.ImagePart(b"no picture"),))
        talk.session.handle(p.CreateResponse(SESSION, is_out_of_band=True, input=(picture,)))
        await settle()
        assert len(asyncio.all_tasks() - before) == 2
        talk.session.handle(p.CancelResponse(SESSION, 1))
        await settle()
        assert asyncio.all_tasks() == before


async def test_too_many_answers_out_of_band_are_refused() -> None:
    async with talking() as talk:
        for number in range(6):
            talk.session.handle(
                p.CreateResponse(SESSION, is_out_of_band=True, request=f"r{number}")
            )
        assert [r.code for r in talk.all(p.RequestRefused)] == ["overloaded"] * 2
        await talk.wait(p.ResponseDone, 4)


async def test_appended_context_is_known_and_commentary_is_said() -> None:
    async with talking() as talk:
        for kind in ("instructions", "thinking", "commentary"):
            text = f"about {kind}."
            talk.session.handle(p.AppendContext(SESSION, kind, text, kind, "task"))
        assert [a.request for a in talk.all(p.ContextAppended)] == [
            "instructions",
            "thinking",
            "commentary",
        ]
        await talk.wait(p.ResponseDone)
        assert talk.all(p.ResponseStarted)[0].trigger == "proactive"
        roles = [message["role"] for message in talk.messages]
        rule, known, to_say = [message["content"] for message in talk.messages]
        assert roles == ["system"] * 3 and rule == "about instructions."
        assert known.endswith("about thinking.") and "only when" in known
        assert to_say.endswith("about commentary.") and "in your own words" in to_say
        assert talk.text(1) not in ("", "about commentary.")


# ---------------------------------------------------------------- without a model


async def test_without_a_model_functions_are_named_once_and_the_rest_is_refused() -> None:
    scene = Scene()
    try:
        for number in range(2):
            scene.session.handle(p.FunctionCallIn(SESSION, f"c{number}", "a", "f", "{}"))
            scene.session.handle(p.FunctionOutputIn(SESSION, f"o{number}", "a", "x"))
        scene.session.handle(p.CreateResponse(SESSION, is_out_of_band=True, request="aside"))
        scene.session.handle(p.AppendContext(SESSION, "thinking", "x", "thought"))
        scene.session.handle(p.AppendContext(SESSION, "commentary", "x", "said"))
        await scene.wait(p.ResponseDone)
        await asyncio.sleep(0)
        assert [w.code for w in scene.all(p.SessionWarning)] == ["tools_unsupported"]
        refused = {r.request: r.code for r in scene.all(p.RequestRefused)}
        assert refused == {"aside": "out_of_band_unsupported", "thought": "append_unsupported"}
        assert [a.request for a in scene.all(p.ContextAppended)] == ["said"]
    finally:
        await scene.close()


# ---------------------------------------------------------------- what streams


def joined(*deltas: Any, known: tuple[str, ...] = ()) -> list[CallPart]:
    joiner = CallJoiner(lambda call_id: call_id in known)
    parts = [part for delta in deltas for part in joiner.push([delta])]
    return [*parts, *joiner.flush()]


def piece(index: int, arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return {"index": index, "function": function, **more}


def test_calls_that_alternate_are_told_apart() -> None:
    parts = joined(
        piece(0, "{", id="a", name="f"),
        piece(1, "[", id="b", name="g"),
        piece(0, "}"),
        piece(1, "]"),
    )
    told = [(part.call_id, part.arguments, part.last) for part in parts]
    assert told == [
        ("a", "{", False),
        ("b", "[", False),
        ("a", "}", False),
        ("b", "]", False),
        ("a", "", True),
        ("b", "", True),
    ]


def test_ids_that_cannot_stand_for_one_call_are_replaced() -> None:
    first, second = joined(piece(0, "{}", id="x", name="f"), known=("x",))
    assert first.call_id == second.call_id != "x" and len(first.call_id) == 9
    twice = joined(piece(0, "", id="x", name="f"), piece(1, "", id="x", name="f"))
    assert len({part.call_id for part in twice}) == 2
    assert joined(piece(0, "", name="f"))[0].call_id.isalnum()


def test_a_name_may_come_after_arguments_and_again() -> None:
    parts = joined(piece(0, "{"), piece(0, "}", name="f"), piece(0, "", name="f"))
    assert "".join(part.arguments for part in parts) == "{}" and parts[-1].last
    assert {part.name for part in parts} == {"f"}


@pytest.mark.parametrize(
    "delta",
    [
        7,
        {"index": "first"},
        piece(0, 7, name="f"),
        piece(0, "", name=7),
        piece(0, "", name="f" * 129),
        piece(0, "x" * (MAX_ARGUMENTS_CHARS + 1), name="f"),
        piece(0, "{}"),
        {"index": 0, "function": "f"},
    ],
)
def test_what_is_no_call_is_refused(delta: Any) -> None:
    with pytest.raises(ValueError):
        joined(delta)


def test_more_calls_than_any_answer_has_are_refused() -> None:
    with pytest.raises(ValueError, match="more tool calls"):
        joined(*(piece(index, "", name="f") for index in range(18)))
