"""What an engine says that it honours reaches it; of other settings it warns once, by name.

The native engine's are in tests/engine/minicpmo/session/test_honours.py; what one response asks
of a chat endpoint is in tests/engine/builtin/test_chat_tools.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from engine.builtin import engine as builtin
from engine.builtin.clauses import Clause
from engine.builtin.engine import BuiltinEngine
from engine.builtin.interfaces import Speech
from engine.config import BuiltinConfig, ChatEndpoint
from engine.echo import EchoEngine
from engine.ipc import protocol as p
from engine.ipc.session_config import SETTINGS, TOLD_ELSEWHERE, unhonoured
from engine.scripted.engine import ScriptedEngine
from tests.chat_server import ChatServer, serving_chat
from tests.engine.builtin.rig import SESSION, Caller, Scene, say

EVERYTHING = p.SessionConfig(
    mode="half_duplex",
    instructions="Be brief.",
    appendix="It rains.",
    voice="en-gb",
    speed=1.5,
    modalities=("text",),
    turn_detection=p.TurnDetection(silence_duration_ms=400),
    sampling=p.Sampling(0.3, 0.5, 7, 1.2, 1.1, 77, True, 4),
    max_image_slices=2,
    context_policy="end",
    retention=p.Retention(0.5),
    options={"timezone": "Europe/Berlin"},
)
"""Every setting differs from its default."""


def test_settings_that_an_engine_does_not_name_are_found() -> None:
    named = set(unhonoured(EVERYTHING, ()))
    assert named == SETTINGS - TOLD_ELSEWHERE
    assert unhonoured(EVERYTHING, SETTINGS) == [] == unhonoured(p.SessionConfig(), ())
    assert unhonoured(EVERYTHING, named - {"speed", "seed"}) == ["speed", "seed"]


def engines(tmp_path: Path) -> list[EchoEngine | ScriptedEngine | BuiltinEngine]:
    chat = BuiltinConfig(speech="basic", chat=ChatEndpoint(url="http://127.0.0.1:1/v1"))
    return [
        EchoEngine(1),
        ScriptedEngine("tools", 1),
        BuiltinEngine(BuiltinConfig(speech="basic"), 1),
        BuiltinEngine(chat, 1),
    ]


async def test_what_is_not_honoured_is_warned_about_once(tmp_path: Path) -> None:
    for engine in engines(tmp_path):
        honours = engine.welcome(1).honours
        assert set(honours) <= SETTINGS | {"after"} and len(set(honours)) == len(honours)
        caller = Caller()
        session = engine.open(SESSION, 0, EVERYTHING, caller.receive)
        session.handle(p.UpdateSession(SESSION, EVERYTHING))
        await asyncio.sleep(0)
        warned = [w.message.partition(":")[0] for w in caller.all(p.SessionWarning)]
        unused = [w for w in warned if w in SETTINGS]
        assert sorted(unused) == sorted(unhonoured(EVERYTHING, honours)), engine
        await session.close()
        await engine.close()


# ---------------------------------------------------------------- the built-in engine


@pytest.fixture
async def served() -> AsyncIterator[tuple[ChatServer, BuiltinEngine]]:
    async with serving_chat() as (server, url):
        engine = BuiltinEngine(BuiltinConfig(speech="basic", chat=ChatEndpoint(url=url)), 1)
        await engine._speech.synthesiser.start()
        assert engine._chat is not None
        await engine._chat.start()
        yield server, engine
        await engine.close()


async def test_settings_of_the_model_reach_the_endpoint(
    served: tuple[ChatServer, BuiltinEngine],
) -> None:
    server, engine = served
    caller = Caller()
    tools = (p.FunctionTool("look"),)
    config = msgspec.structs.replace(
        EVERYTHING, tools=tools, tool_choice="required", tool_name="look"
    )
    session = engine.open(SESSION, 0, config, caller.receive)
    caller.connect(session)
    session.handle(p.ItemIn(SESSION, "i", "user", (p.TextPart("hello"),)))
    session.handle(p.CreateResponse(SESSION))
    await caller.wait(p.ResponseDone)
    (body,) = server.requests
    seen = {
        "instructions": "Be brief." in body["messages"][0]["content"],
        # Greedy is what no temperature is.
        "temperature": "temperature" in body,
        "retention": session._history.retention == p.Retention(0.5),
        "greedy": body["temperature"] == 0,
        "top_p": body["top_p"] == 0.5,
        "seed": body["seed"] == 4,
        "max_output_tokens": body["max_tokens"] == 77,
        "tools": body["tools"][0]["function"]["name"] == "look",
        "tool_choice": bool(body["tool_choice"]),
        "tool_name": body["tool_choice"]["function"]["name"] == "look",
    }
    assert seen == dict.fromkeys(builtin.HONOURED_BY_MODEL, True)
    await session.close()


async def test_voice_and_speed_reach_the_synthesiser(
    served: tuple[ChatServer, BuiltinEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, engine = served
    asked: list[tuple[str, float]] = []
    speak = engine._speech.synthesiser.speak

    def note(clause: Clause, voice: str, speed: float) -> Awaitable[Speech]:
        asked.append((voice, speed))
        return speak(clause, voice, speed)

    monkeypatch.setattr(engine._speech.synthesiser, "speak", note)
    caller = Caller()
    config = p.SessionConfig(voice="en-gb", speed=1.5)
    session = engine.open(SESSION, 0, config, caller.receive)
    session.handle(p.AppendContext(SESSION, "commentary", "Hello."))
    await caller.wait(p.ResponseDone)
    assert set(asked) == {("en-gb", 1.5)}
    await session.close()


async def _transcripts(scene: Scene) -> bool:
    await scene.wait(p.ResponseDone)
    return not scene.all(p.InputTranscript)


async def _text_only(scene: Scene) -> bool:
    await scene.wait(p.ResponseDone)
    return not scene.all(p.AudioOut)


async def _unanswered(scene: Scene) -> bool:
    await scene.wait(p.InputTranscript)
    return not scene.all(p.ResponseStarted)


async def _unannounced(scene: Scene) -> bool:
    scene.session.handle(p.CommitAudio(SESSION))
    await scene.wait(p.InputTranscript)
    return not scene.all(p.SpeechStarted)


async def _bad_zone(scene: Scene) -> bool:
    return (await scene.wait(p.SessionWarning)).code == "invalid_option"


@pytest.mark.parametrize(
    ("config", "shows"),
    [
        (p.SessionConfig(transcribe=False), _transcripts),
        (p.SessionConfig(modalities=("text",)), _text_only),
        (p.SessionConfig(turn_detection=p.TurnDetection(create_response=False)), _unanswered),
        (p.SessionConfig(mode="turn_based"), _unannounced),
        (p.SessionConfig(options={"timezone": "Moon/Base"}), _bad_zone),
    ],
    ids=["transcribe", "modalities", "turn_detection", "mode", "options"],
)
async def test_settings_of_the_session_have_their_effect(
    config: p.SessionConfig, shows: Callable[[Scene], Awaitable[bool]]
) -> None:
    scene = Scene(config)
    try:
        await scene.hear(say("what_time"))
        assert await shows(scene)
    finally:
        await scene.close()
