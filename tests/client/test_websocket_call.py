"""A call over a WebSocket against a fake server: asking, tools, sound, ends and errors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import omnicall.client as client
from tests.client.fake_server import KEY, SPOKEN, Event, FakeServer, fake_server

MINUTE = 600
"""Pieces of `SPOKEN`: longer than any machine stands still."""


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as fake:
        yield fake


def call(server: FakeServer, **options: Any) -> client.Call:
    return client.call(server.url, key=KEY, transport="websocket", **options)


async def test_a_question_is_answered_in_words_captions_and_sound(server: FakeServer) -> None:
    async with call(server) as made:
        assert await made.ask("What time is it?") == client.Reply("It is noon.", "completed")
        await made.hang_up()
        captions = [caption async for caption in made.captions]
        sound = [pcm async for pcm in made.sound]
    assert [(c.role, c.text, c.is_final) for c in captions] == [
        ("assistant", "It is", False),
        ("assistant", "It is noon.", True),
    ]
    assert np.array_equal(np.concatenate(sound), SPOKEN)
    item = (await server.gets("conversation.item.create"))["item"]
    assert item["content"] == [{"type": "input_text", "text": "What time is it?"}]


async def test_the_session_is_what_was_asked_for(server: FakeServer) -> None:
    session = {"instructions": "Be brief.", "audio": {"output": {"voice": "one"}}}
    async with call(server, mode="turn_based", session=session) as made:
        update = await server.gets("session.update")
        pcm = {"type": "audio/pcm", "rate": 24_000}
        assert update["session"] == {
            "type": "realtime",
            "instructions": "Be brief.",
            "audio": {
                "input": {"format": pcm, "turn_detection": None},
                "output": {"format": pcm, "voice": "one"},
            },
        }
        assert (await made.update(instructions="Be long."))["instructions"] == "Be long."


def add(one: int, other: int = 1) -> int:
    """Add two numbers."""
    return one + other


async def fail(why: str) -> None:
    raise KeyError(why)


async def test_functions_are_called_and_the_answer_waits_for_them(server: FakeServer) -> None:
    server.calls = [("add", '{"one": 2}'), ("fail", '{"why": "no"}'), ("add", "{}")]
    async with call(server, tools=[add, fail]) as made:
        told = (await server.gets("session.update"))["session"]["tools"]
        assert [tool["name"] for tool in told] == ["add", "fail"]
        assert (await made.ask("How much is it?")).text == "It is noon."
    outputs = [e["item"] for e in server.received if e["type"] == "conversation.item.create"][1:]
    assert [item["call_id"] for item in outputs] == ["call_0", "call_1", "call_2"]
    assert outputs[0]["output"] == "3"
    assert "KeyError" in outputs[1]["output"]
    assert "required field `one`" in outputs[2]["output"]
    assert [e["type"] for e in server.received].count("response.create") == 2


async def test_what_is_said_arrives_in_real_time_and_between_silence(server: FakeServer) -> None:
    said = np.arange(1, 4801, dtype=np.int16)
    loop = asyncio.get_running_loop()
    async with call(server) as made:
        await server.gets("input_audio_buffer.append")
        begun = loop.time()
        await made.say(said)
        await made.said()
        assert loop.time() - begun >= 0.1
        await server.gets("input_audio_buffer.append", count=4)
    appended = [e["audio"] for e in server.received if e["type"] == "input_audio_buffer.append"]
    pcm = np.frombuffer(b"".join(map(base64.b64decode, appended)), np.int16)
    assert np.array_equal(pcm[pcm != 0], said) and (pcm == 0).any()


async def test_where_the_client_ends_turns_only_what_is_said_is_sent(server: FakeServer) -> None:
    async with call(server, mode="turn_based") as made:
        for _ in range(2):
            await asyncio.sleep(0.25)
            await made.say(SPOKEN)
            await made.say(SPOKEN)
            await made.commit()
    kinds = [e["type"] for e in server.received if e["type"].startswith("input_audio_buffer")]
    assert [kind.rpartition(".")[2] for kind in kinds] == [
        "clear",
        "append",
        "append",
        "commit",
    ] * 2


async def test_who_speaks_over_an_answer_cuts_it_where_it_was_heard(server: FakeServer) -> None:
    now = asyncio.get_running_loop().time
    async with call(server) as made:
        await server.tell("response.created", response={"id": "r"})
        sent = now()
        for _ in range(MINUTE):
            await server.speak("r", "item_9")
        async for _ in made.sound:
            break
        came = now()
        await asyncio.sleep(0.3)
        spoken_over = now()
        await server.tell("input_audio_buffer.speech_started")
        cut = await server.gets("conversation.item.truncate")
        least_ms, most_ms = (spoken_over - came) * 1000 - 1, (now() - sent) * 1000
        assert cut["item_id"] == "item_9" and least_ms <= cut["audio_end_ms"] <= most_ms
        await made.interrupt()
        await server.gets("response.cancel")
    assert [e["type"] for e in server.received].count("conversation.item.truncate") == 1


async def test_refused_events_are_told_to_who_sent_them(server: FakeServer) -> None:
    async def refuse(event: Event) -> None:
        if event["type"] in ("session.update", "response.create"):
            error = {"message": "speed: too fast.", "code": "invalid", "param": "session.speed"}
            await server.tell("error", error=error | {"event_id": event["event_id"]})

    async with call(server) as made:
        server.on_event = refuse
        with pytest.raises(client.RequestFailed, match="too fast") as refused:
            await made.update(speed=9)
        assert (refused.value.code, refused.value.param) == ("invalid", "session.speed")
        with pytest.raises(client.RequestFailed):
            await made.ask("What time is it?")


async def test_settings_that_are_refused_end_the_attempt(server: FakeServer) -> None:
    async def refuse(event: Event) -> None:
        error = {"message": "voice: there is none.", "event_id": event["event_id"]}
        await server.tell("error", error=error)

    server.on_event = refuse
    with pytest.raises(client.RequestFailed, match="there is none"):
        async with call(server):
            pass


async def test_failed_answer_says_why(server: FakeServer) -> None:
    async def fail_it(event: Event) -> None:
        if event["type"] == "response.create":
            await server.tell("response.created", response={"id": "r"})
            details = {"error": {"message": "The engine failed.", "code": "engine_failed"}}
            done = {"id": "r", "status": "failed", "status_details": details}
            await server.tell("response.done", response=done)

    async with call(server) as made:
        server.on_event = fail_it
        with pytest.raises(client.RequestFailed, match="The engine failed"):
            await made.ask("What time is it?")


@pytest.mark.parametrize(
    ("code", "reason", "is_orderly"), [(1000, "hangup", True), (1012, "lost", False)]
)
async def test_the_end_reaches_everybody(
    server: FakeServer, code: int, reason: str, is_orderly: bool
) -> None:
    async with call(server) as made:
        asked = asyncio.create_task(made.ask("Are you there?"))
        server.on_event = lambda event: asyncio.sleep(0)
        await server.gets("response.create")
        await server.hang_up(code)
        with pytest.raises(client.CallOver) as ended:
            await asked
        assert (ended.value.reason, ended.value.is_orderly) == (reason, is_orderly)
        if is_orderly:
            assert [pcm async for pcm in made.sound] == []
        else:
            with pytest.raises(client.CallOver, match="1012"):
                async for _ in made.sound:
                    pass
        with pytest.raises(client.CallOver):
            await made.write("Hello?")


async def test_told_end_has_the_words_of_the_server(server: FakeServer) -> None:
    async with call(server) as made:
        await server.tell("session.ended", reason="engine_gone", message="Call again.")
        with pytest.raises(client.CallOver, match="Call again") as ended:
            async for _ in made.events:
                pass
        assert ended.value.reason == "engine_gone"


async def test_a_call_that_is_not_taken_says_why(server: FakeServer) -> None:
    with pytest.raises(client.Declined, match="did not accept the key") as refused:
        async with client.call(server.url, key="wrong", transport="websocket"):
            pass
    assert refused.value.status == 401
    with pytest.raises(client.NoConnection, match="cannot be reached"):
        async with client.call("http://127.0.0.1:9", transport="websocket"):
            pass
    with pytest.raises(ValueError, match="https://"):
        async with client.call("localhost:8006"):
            pass


async def test_who_is_not_served_in_time_gives_up(server: FakeServer) -> None:
    server.serves = False
    server.on_event = lambda event: server.tell("session.queued", position=3, eta_s=9.5)
    made = call(server, wait_s=0.3)
    with pytest.raises(client.NoConnection, match="free within 0.3 s"):
        async with made:
            pass
    assert made.queue == (3, 9.5)


async def test_an_error_of_the_body_stays_what_it_is(server: FakeServer) -> None:
    with pytest.raises(ZeroDivisionError):
        async with call(server) as made:
            _ = 1 // 0
    assert made.ending is not None and made.ending.reason == "hangup"
