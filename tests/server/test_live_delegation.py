"""Tasks of full duplex that a configured chat endpoint answers, with the client's functions: the
real server with the scripted engine, over OpenAI Realtime and OpenAI Live. It records both calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import serving_chat
from tests.live_client import LiveStreamer
from tests.serving import Serving
from tests.streamer import Streamer
from tests.waiting import until

pytestmark = pytest.mark.loopback

SCRIPT = """
sound = "tones"
[[cue]]
at = 0.5
heard = "What does look_up say of the parcels?"
heard_s = 0.6
[[cue]]
at = 1.5
say = "Let me check."
"""
TOOL = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}
FOUND = "I found: two parcels."


async def test_a_chat_endpoint_calls_functions_and_the_model_says_what_it_found(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.toml"
    script.write_text(SCRIPT)
    async with serving_chat() as (chat, chat_url):
        options = ("--engine", "scripted", "--script", str(script))
        settings = (
            *(f"delegate.chat.url={chat_url}", f"data.dir={tmp_path}"),
            "recordings.enabled=true",
        )
        chosen = [part for setting in settings for part in ("--set", setting)]
        serving = Serving(*options, *chosen)
        await asyncio.to_thread(serving.__enter__)
        try:
            async with asyncio.TaskGroup() as clients:
                clients.create_task(_realtime(serving.url, tmp_path))
                clients.create_task(_live(serving.url, tmp_path))
            await until(lambda: len(_recorded(tmp_path)) == 2)
        finally:
            await asyncio.to_thread(serving.stop)
        for recording in _recorded(tmp_path):
            assert FOUND in (recording / "words.jsonl").read_text()
            for name, least_s in (("user", 2), ("assistant", 1)):
                with wave.open(str(recording / f"{name}.wav")) as sound:
                    assert sound.getnframes() > least_s * sound.getframerate()
                    assert name == "user" or any(sound.readframes(sound.getnframes()))
        last = [request["messages"][-1] for request in chat.requests]
        assert sorted(message["role"] for message in last) == ["tool", "tool", "user", "user"]


def _recorded(folder: Path) -> list[Path]:
    """The recordings that are complete: that a call is over is written last."""
    found = (folder / "recordings").glob("*/call.json")
    return [path.parent for path in found if '"ended_at":1' in path.read_text()]


async def _have_heard(folder: Path) -> None:
    """Wait until both callers have heard what was found: words are told ahead of their sound."""

    def words() -> list[str]:
        return [path.read_text() for path in (folder / "recordings").glob("*/words.jsonl")]

    await until(lambda: sum(FOUND in text for text in words()) == 2)


async def _realtime(url: str, folder: Path) -> None:
    async with Streamer(url) as client:
        await client.hears("session.created")
        await client.send("session.update", session={"type": "realtime", "tools": [TOOL]})
        session = (await client.hears("session.updated"))["session"]
        assert [tool["name"] for tool in session["tools"]] == ["look_up"]
        async with _talking(client):
            call = await client.hears("response.function_call_arguments.done")
            await client.hears("response.done", count=2)
            output = {"type": "function_call_output", "output": "two parcels"}
            item = {**output, "call_id": call["call_id"]}
            await client.send("conversation.item.create", item=item)
            await client.send("response.create")
            done = await client.hears("response.done", count=3)
            await _have_heard(folder)
        (message,) = done["response"]["output"]
        assert message["content"][0]["transcript"] == FOUND
        assert client.of("error") == []
        kinds = [
            [item["type"] for item in e["response"]["output"]] for e in client.of("response.done")
        ]
        assert kinds == [["message"], ["function_call"], ["message"]]


@contextlib.asynccontextmanager
async def _talking(client: Streamer) -> AsyncIterator[None]:
    """Send silence within the block, in its time."""

    async def talk() -> None:
        while True:
            await client.say(bytes(4_800))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(talk())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _live(url: str, folder: Path) -> None:
    backend: dict[str, Any] = {"model": "any", "tools": [TOOL]}
    async with LiveStreamer(url) as client:
        await client.start(delegation={"type": "responses", "responses": backend})
        async with client.talks():
            created = await client.hears("session.delegation.created")
            call_id = await _called(client)
            output = {"type": "function_call_output", "call_id": call_id, "output": "two parcels"}
            await client.send("response.item.create", item=output)
            await client.send("response.create")
            await client.has_said(FOUND)
            await _have_heard(folder)
        assert "recorded" in [event["code"] for event in client.of("info")]
        assert client.of("error") == []
        tasks = {event["delegation_id"] for event in client.of("response.event")}
        assert tasks == {created["delegation"]["id"]}


async def _called(client: LiveStreamer) -> str:
    """Wait until a function was called and the response that did so is over; the call's id."""
    call_id, count = "", 1
    while (event := (await client.hears("response.event", count=count))["event"])["type"] != (
        "response.completed"
    ):
        if event["type"] == "response.output_item.done":
            call_id = event["item"]["call_id"]
        count += 1
    return call_id
