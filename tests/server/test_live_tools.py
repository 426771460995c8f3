"""Functions end to end over a WebSocket: the real server, with engines that call them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.chat_server import serving_chat
from tests.serving import Serving
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.loopback

NAMES = ("get_weather", "get_time")
TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}}
    for name in NAMES
]


class Connection:
    """A client of the Realtime API."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, kind: str, **members: Any) -> None:
        await self._socket.send_str(json.dumps({"type": kind, **members}))

    async def until(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                event: dict[str, Any] = json.loads((await self._socket.receive()).data)
                assert event["type"] != "error", event
                if event["type"] == kind:
                    return event

    async def ask(self, text: str) -> list[dict[str, Any]]:
        """Type something; the output of the response."""
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        await self.send("conversation.item.create", item=item)
        return await self.respond()

    async def respond(self) -> list[dict[str, Any]]:
        await self.send("response.create")
        response = (await self.until("response.done"))["response"]
        assert response["status"] == "completed"
        output: list[dict[str, Any]] = response["output"]
        return output

    async def give(self, calls: list[dict[str, Any]], text: str) -> None:
        for call in calls:
            item = {"type": "function_call_output", "call_id": call["call_id"], "output": text}
            await self.send("conversation.item.create", item=item)


def calls_in(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in output if item["type"] == "function_call"]


def text_in(output: list[dict[str, Any]]) -> str:
    return "".join(item["content"][0]["text"] for item in output if item["type"] == "message")


async def connect(http: aiohttp.ClientSession, url: str) -> Connection:
    address = url.replace("http", "ws", 1).rstrip("/") + "/v1/realtime?model=any"
    connection = Connection(await http.ws_connect(address))
    await connection.until("session.created")
    settings = {
        "type": "realtime",
        "output_modalities": ["text"],
        "audio": {"input": {"turn_detection": None}},
        "tools": TOOLS,
    }
    await connection.send("session.update", session=settings)
    await connection.until("session.updated")
    return connection


async def test_a_chat_endpoint_calls_two_functions_and_tells_what_they_gave() -> None:
    async with serving_chat() as (_, chat_url), aiohttp.ClientSession() as http:
        option = f"builtin.chat.url={chat_url}"
        serving = await asyncio.to_thread(Serving("--set", option).__enter__)
        try:
            connection = await connect(http, serving.url)
            output = await connection.ask("get_weather and get_time, please")
            assert text_in(output) == "Let me see. "
            calls = calls_in(output)
            assert [call["name"] for call in calls] == [*NAMES]
            assert all("please" in json.loads(call["arguments"])["about"] for call in calls)
            # A question in between is answered while the functions run.
            assert text_in(await connection.ask("hello?")) == "You said: hello?"
            await connection.give(calls, "fine")
            await connection.ask("and?")
            assert text_in(await connection.ask("bye")) == "You said: bye"
        finally:
            await asyncio.to_thread(serving.stop)


async def test_a_script_calls_functions() -> None:
    async with aiohttp.ClientSession() as http:
        arguments = ("--engine", "scripted", "--script", "tools")
        serving = await asyncio.to_thread(Serving(*arguments).__enter__)
        try:
            connection = await connect(http, serving.url)
            calls = calls_in(await connection.ask("the weather"))
            assert [call["name"] for call in calls] == ["get_weather"]
            assert json.loads(calls[0]["arguments"]) == {"city": "Berlin"}
            await connection.give(calls, "sunny")
            assert text_in(await connection.respond()).startswith("Here is what I found")
            assert len(calls_in(await connection.ask("and in Paris?"))) == 2
        finally:
            await asyncio.to_thread(serving.stop)
