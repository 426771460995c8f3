"""Answers from an OpenAI-compatible `/v1/chat/completions` endpoint, streamed as they come."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from engine.builtin.conversation import Item
from engine.builtin.interfaces import AnswerFailed, Turn
from engine.config import ChatEndpoint

MAX_ANSWER_CHARS = 20_000
MAX_REASON_CHARS = 200
MAX_LINE_BYTES = 1 << 17
STYLE = (
    "You are in a spoken conversation; your words are read aloud. Answer briefly, in plain "
    "sentences, without lists, headings or markup. The newest picture of the user's camera may "
    "be attached."
)


class ChatFailed(AnswerFailed):
    """The endpoint did not give a whole answer; `spoken` is the short sentence for the user."""

    def __init__(self, spoken: str, reason: str) -> None:
        super().__init__(reason)
        self.spoken = spoken


class ChatResponder:
    """Owns the HTTP connections to one endpoint. Implements the same `reply` as the rules."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, connect=self._endpoint.timeout_s),
            read_bufsize=MAX_LINE_BYTES,
        )

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def reply(self, turn: Turn) -> AsyncGenerator[str, None]:
        """Yield the answer's text; raise `ChatFailed` if it does not come or ends early."""
        assert self._http is not None, "not started"
        body = await self._body(turn)
        key = self._endpoint.api_key
        headers = {"Accept": "text/event-stream"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = self._endpoint.url.rstrip("/") + "/chat/completions"
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):
                response = await self._http.post(
                    url, json=body, headers=headers, allow_redirects=False
                )
                if response.status != 200:
                    raise await self._refusal(response)
            async for delta in self._deltas(response, turn):
                yield delta
        except TimeoutError:
            raise ChatFailed(
                "Sorry, the language model took too long.",
                f"the chat endpoint sent nothing for {self._endpoint.timeout_s:g} s",
            ) from None
        except aiohttp.ClientPayloadError as error:
            raise _cut_off(str(error)) from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            if response is not None:
                raise _malformed(str(error)) from error
            raise ChatFailed(
                "Sorry, I cannot reach the language model.",
                self._clean(f"the chat endpoint cannot be reached: {error}"),
            ) from error
        finally:
            if response is not None:
                # Ends the generation on the other side when the answer is not wanted any more.
                response.close()

    async def _deltas(
        self, response: aiohttp.ClientResponse, turn: Turn
    ) -> AsyncGenerator[str, None]:
        if response.content_type == "application/json":
            async with asyncio.timeout(self._endpoint.timeout_s):
                answer = await response.content.read(MAX_LINE_BYTES)
            yield self._read_whole(answer, turn)
            return
        num_chars = 0
        is_finished = False
        while True:
            async with asyncio.timeout(self._endpoint.timeout_s):
                line = await response.content.readline()
            if not line:
                break
            data = _data_of(line)
            if data is None:
                continue
            if data == "[DONE]":
                is_finished = True
                break
            delta, reason = self._read_event(data, turn)
            is_finished = is_finished or bool(reason)
            num_chars += len(delta)
            if delta:
                yield delta
            if num_chars > MAX_ANSWER_CHARS:
                turn.incomplete = "the answer is too long"
                return
        if not is_finished:
            raise _cut_off("the stream ended without its end mark")
        if num_chars == 0:
            raise ChatFailed(
                "Sorry, the language model gave no answer.", "the chat endpoint's answer is empty"
            )

    def _read_event(self, data: str, turn: Turn) -> tuple[str, str]:
        """The text and the finish reason in one event."""
        event = _parse(data)
        if event.get("error"):
            raise self._reported(event["error"])
        _count(event.get("usage"), turn)
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return "", ""
        choice = choices[0]
        if not isinstance(choice, dict):
            raise _malformed("a choice that is no object")
        delta = choice.get("delta") or {}
        text = delta.get("content") if isinstance(delta, dict) else None
        reason = choice.get("finish_reason")
        return _checked_text(text), _finish(reason, turn)

    def _read_whole(self, data: bytes, turn: Turn) -> str:
        """The text of an answer from a server that does not stream."""
        answer = _parse(data.decode(errors="replace"))
        if answer.get("error"):
            raise self._reported(answer["error"])
        _count(answer.get("usage"), turn)
        try:
            choice = answer["choices"][0]
            text = _checked_text(choice["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise _malformed(f"no message in it ({error!r})") from error
        _finish(choice.get("finish_reason"), turn)
        return text[:MAX_ANSWER_CHARS]

    async def _refusal(self, response: aiohttp.ClientResponse) -> ChatFailed:
        text = (await response.content.read(4096)).decode(errors="replace")
        try:
            error = json.loads(text)["error"]
            text = error["message"] if isinstance(error, dict) else str(error)
        except (ValueError, KeyError, TypeError):
            text = text if response.content_type == "text/plain" else ""
        who = "is not working" if response.status >= 500 else "refused my request"
        return ChatFailed(
            f"Sorry, the language model {who}.",
            self._clean(f"the chat endpoint answered {response.status}: {text or response.reason}"),
        )

    def _reported(self, error: object) -> ChatFailed:
        text = error.get("message") if isinstance(error, dict) else error
        return ChatFailed(
            "Sorry, the language model reported an error.",
            self._clean(f"the chat endpoint reported: {text}"),
        )

    def _clean(self, reason: str) -> str:
        """For people: one line, not too long, without the key."""
        if self._endpoint.api_key:
            reason = reason.replace(self._endpoint.api_key, "***")
        return " ".join(reason.split())[:MAX_REASON_CHARS]

    async def _body(self, turn: Turn) -> dict[str, Any]:
        sampling = turn.config.sampling
        body: dict[str, Any] = {
            "messages": await self._messages(turn),
            "stream": True,
            "max_tokens": sampling.max_output_tokens or self._endpoint.max_tokens,
        }
        if self._endpoint.model:
            body["model"] = self._endpoint.model
        optional = {
            "temperature": 0.0 if sampling.greedy else sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        body.update({name: value for name, value in optional.items() if value is not None})
        return body

    async def _messages(self, turn: Turn) -> list[dict[str, Any]]:
        system = "\n\n".join(
            text for text in (STYLE, turn.config.instructions, turn.instructions) if text
        )
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
        messages += [
            _message(item)
            for item in turn.conversation.items
            if item.text or item.images or item.unread
        ]
        picture = await turn.camera.jpeg() if self._endpoint.send_picture else None
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
    kind = "png" if image.startswith(b"\x89PNG") else "webp" if image[8:12] == b"WEBP" else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _data_of(line: bytes) -> str | None:
    """The payload of one line of the event stream; None for comments, names and blank lines."""
    text = line.decode(errors="replace").strip()
    if not text or text.startswith((":", "event:", "id:", "retry:")):
        return None
    if not text.startswith("data:"):
        raise _malformed("a line that is no event")
    return text.removeprefix("data:").strip()


def _parse(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise _malformed("an event that is not JSON") from error
    if not isinstance(event, dict):
        raise _malformed("an event that is no object")
    return event


def _checked_text(text: object) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise _malformed("content that is no text")
    return text


def _finish(reason: object, turn: Turn) -> str:
    if reason == "length":
        turn.incomplete = "the token limit was reached"
    elif reason == "content_filter":
        turn.incomplete = "the language model's content filter"
    return str(reason) if reason else ""


def _count(usage: object, turn: Turn) -> None:
    if isinstance(usage, dict):
        read = usage.get("prompt_tokens"), usage.get("completion_tokens")
        turn.input_tokens, turn.output_tokens = (
            value if isinstance(value, int) and value >= 0 else 0 for value in read
        )


def _malformed(what: str) -> ChatFailed:
    return ChatFailed(
        "Sorry, I do not understand the language model's answer.",
        f"the chat endpoint's answer is malformed: {what}"[:MAX_REASON_CHARS],
    )


def _cut_off(why: str) -> ChatFailed:
    return ChatFailed(
        "Sorry, the language model's answer was cut off.",
        f"the chat endpoint ended its answer early: {why}"[:MAX_REASON_CHARS],
    )
