"""A turn as the body of a `/v1/chat/completions` request."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from engine.builtin.history import Item
from engine.builtin.interfaces import Turn
from engine.config import ChatEndpoint
from engine.ipc.protocol import FunctionTool, ToolChoice

NO_OUTPUT_YET = "(The function is still running: there is no result yet.)"
STYLE = (
    "You are in a spoken conversation; your words are read aloud. Answer briefly, in plain "
    "sentences, without lists, headings or markup. The newest picture of the user's camera may "
    "be attached."
)


async def request_body(turn: Turn, endpoint: ChatEndpoint) -> dict[str, Any]:
    """The request for an answer to `turn`, as JSON values."""
    sampling = turn.config.sampling
    messages = await _messages(turn, endpoint)
    turn.has_pictures = any(isinstance(message["content"], list) for message in messages)
    body: dict[str, Any] = {
        "messages": messages,
        "stream": True,
        "max_tokens": turn.max_output_tokens or endpoint.max_tokens,
    }
    if turn.tools:
        body["tools"] = [_tool(tool) for tool in turn.tools]
        body["tool_choice"] = _choice(*turn.tool_choice)
    if endpoint.model:
        body["model"] = endpoint.model
    optional = {
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    body.update({name: value for name, value in optional.items() if value is not None})
    return body


async def _messages(turn: Turn, endpoint: ChatEndpoint) -> list[dict[str, Any]]:
    system = "\n\n".join(
        text for text in (STYLE, turn.config.system_text(), turn.instructions) if text
    )
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    messages += _history(turn.conversation.items)
    picture = await turn.camera.jpeg() if endpoint.send_picture else None
    if picture is not None:
        users = [message for message in messages if message["role"] == "user"]
        if users:
            users[-1]["content"] = [*_as_parts(users[-1]["content"]), _image_part(picture)]
    return messages


def _history(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The conversation; what a function gave back stands behind its call, however late it came."""
    outputs = {item.call_id: item.text for item in items if item.role == "output"}
    messages: list[dict[str, Any]] = []
    called: list[str] = []

    def give_outputs() -> None:
        for call_id in called:
            content = outputs.get(call_id, NO_OUTPUT_YET)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        called.clear()

    for item in items:
        if item.role == "call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(_call(item))
            called.append(item.call_id)
        elif item.role != "output" and (item.text or item.images or item.unread):
            give_outputs()
            messages.append(_message(item))
    give_outputs()
    return messages


def _call(item: Item) -> dict[str, Any]:
    # Endpoints read the arguments again and refuse what is no JSON object.
    arguments = item.text if isinstance(_parsed(item.text), dict) else "{}"
    function = {"name": item.name, "arguments": arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": _parsed(tool.parameters)}
    if not function["parameters"]:
        function["parameters"] = {"type": "object", "properties": {}}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice, name: str) -> Any:
    if choice == "required" and name:
        return {"type": "function", "function": {"name": name}}
    return choice


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _message(item: Item) -> dict[str, Any]:
    text = item.text
    if item.unread:
        text = (
            f"{text}\n[A file was attached that did not reach you: {item.unread} cannot.]".strip()
        )
    if not item.images:
        return {"role": item.role, "content": text}
    return {
        "role": item.role,
        "content": _as_parts(text) + [_image_part(image) for image in item.images],
    }


def _as_parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _image_part(image: bytes) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
