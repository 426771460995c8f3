"""A turn as the body of a `/v1/chat/completions` request."""

from __future__ import annotations

import base64
from typing import Any

from engine.builtin.history import Item
from engine.builtin.interfaces import Turn
from engine.config import ChatEndpoint

STYLE = (
    "You are in a spoken conversation; your words are read aloud. Answer briefly, in plain "
    "sentences, without lists, headings or markup. The newest picture of the user's camera may "
    "be attached."
)


async def request_body(turn: Turn, endpoint: ChatEndpoint) -> dict[str, Any]:
    """The request for an answer to `turn`, as JSON values."""
    sampling = turn.config.sampling
    body: dict[str, Any] = {
        "messages": await _messages(turn, endpoint),
        "stream": True,
        "max_tokens": sampling.max_output_tokens or endpoint.max_tokens,
    }
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
        text for text in (STYLE, turn.config.instructions, turn.instructions) if text
    )
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    messages += [
        _message(item)
        for item in turn.conversation.items
        if item.text or item.images or item.unread
    ]
    picture = await turn.camera.jpeg() if endpoint.send_picture else None
    if picture is not None:
        users = [message for message in messages if message["role"] == "user"]
        if users:
            users[-1]["content"] = [*_as_parts(users[-1]["content"]), _image_part(picture)]
    return messages


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
