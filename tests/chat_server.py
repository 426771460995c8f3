"""A small chat endpoint that calls functions: `python -m tests.chat_server --port 18650`.

It has no model. What the user says last decides: the functions that it names are called, each with
`{"about": ...}`; what they give back is told; anything else is repeated. It streams as OpenAI's
API does, and refuses what that refuses: outputs without calls, calls without outputs. Who asks for
a story is told one of half a minute, to be interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

ARGUMENT_CHARS = 5
STORY = (
    "Once there was a river that did not know where the sea was. ",
    "It asked the hills, and the hills said: go down. ",
    "It asked the trees, and the trees said: go on. ",
    "It asked the stones, and the stones said nothing, because stones take their time. ",
    "So the river went down, and it went on, and wherever it met a stone it went around it. ",
    "And when at last it reached the sea, it did not even notice: it had been water all along.",
)


class ChatServer:
    """Keeps the bodies of its requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        return app

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if told := fault(body["messages"]):
            return web.json_response({"error": {"message": told}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for delta, reason in answer(body):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            await response.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        usage = {"prompt_tokens": len(body["messages"]), "completion_tokens": 2}
        last = json.dumps({"choices": [], "usage": usage})
        await response.write(f"data: {last}\n\ndata: [DONE]\n\n".encode())
        return response


def fault(messages: list[dict[str, Any]]) -> str:
    """What OpenAI's API would refuse in these messages; empty: nothing."""
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                return "an output without its call before it"
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            return "a call without its output behind it"
        for call in message.get("tool_calls", ()):
            json.loads(call["function"]["arguments"])
            open_calls.append(call["id"])
    return "a call without its output behind it" if open_calls else ""


def answer(body: dict[str, Any]) -> list[tuple[dict[str, Any], str | None]]:
    """The deltas of an answer with the reasons for which it ends."""
    messages = body["messages"]
    last = messages[-1]
    if last["role"] == "tool":
        outputs = []
        for message in reversed(messages):
            if message["role"] != "tool":
                break
            outputs.append(message["content"])
        return [({"content": f"I found: {' and '.join(outputs[::-1])}."}, "stop")]
    text = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
    names = _chosen(body, text)
    if not names and "story" in text.lower():
        return [*(({"content": piece}, None) for piece in STORY), ({}, "stop")]
    if not names:
        return [({"content": "You said: "}, None), ({"content": text}, None), ({}, "stop")]
    deltas: list[tuple[dict[str, Any], str | None]] = [({"content": "Let me see. "}, None)]
    for index, name in enumerate(names):
        call_id = f"call-{len(messages)}-{index}"
        function: dict[str, Any] = {"name": name, "arguments": ""}
        call = {"index": index, "id": call_id, "type": "function", "function": function}
        deltas.append(({"tool_calls": [call]}, None))
        arguments = json.dumps({"about": text})
        for start in range(0, len(arguments), ARGUMENT_CHARS):
            piece = {"arguments": arguments[start : start + ARGUMENT_CHARS]}
            deltas.append(({"tool_calls": [{"index": index, "function": piece}]}, None))
    return [*deltas, ({}, "tool_calls")]


def _chosen(body: dict[str, Any], text: str) -> list[str]:
    """The functions to be called."""
    names = [tool["function"]["name"] for tool in body.get("tools", ())]
    match body.get("tool_choice", "auto"):
        case "none":
            return []
        case "required":
            return [name for name in names if name in text] or names[:1]
        case {"function": {"name": name}}:
            return [name]
        case _:
            return [name for name in names if name in text]


@asynccontextmanager
async def serving_chat() -> AsyncIterator[tuple[ChatServer, str]]:
    """A server on a free port of loopback, and its base URL."""
    chat = ChatServer()
    server = TestServer(chat.app())
    await server.start_server()
    try:
        yield chat, str(server.make_url("/v1"))
    finally:
        await server.close()


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--port", type=int, default=18650)
    web.run_app(ChatServer().app(), host="127.0.0.1", port=args.parse_args().port)


if __name__ == "__main__":
    main()
