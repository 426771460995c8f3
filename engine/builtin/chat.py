"""Answers from an OpenAI-compatible `/v1/chat/completions` endpoint, streamed as they come."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from engine.builtin.chat_request import request_body
from engine.builtin.deltas import DeltaJoiner
from engine.builtin.gate import Dropped, Gate, WaitBudget
from engine.builtin.interfaces import ChatFailed, Turn
from engine.config import ChatEndpoint

MAX_ANSWER_CHARS = 20_000
MAX_LINE_BYTES = 1 << 17
MAX_STREAM_BYTES = 16 << 20
"""Of an answer with all that is around its words."""
MAX_ANSWER_BYTES = 1 << 20
MAX_REFUSAL_BYTES = 4096
MAX_LOGGED_CHARS = 200
END_GRACE_S = 1.0
"""How long after the finish reason the figures of usage and the end mark may still come."""

logger = logging.getLogger(__name__)


class ChatResponder:
    """Owns the HTTP connections to one endpoint. Implements the same `reply` as the rules."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint
        self._gate = Gate(endpoint.max_requests, endpoint.max_requests)
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._http = aiohttp.ClientSession(
            # Each answer has its own deadlines.
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0),
            read_bufsize=MAX_LINE_BYTES,
        )

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def reply(self, turn: Turn) -> AsyncGenerator[str, None]:
        """Yield the answer's text; raise `ChatFailed` if it does not come or ends early."""
        patience = WaitBudget(self._endpoint.timeout_s)
        response: aiohttp.ClientResponse | None = None
        try:
            body = await request_body(turn, self._endpoint)
            async with self._gate.admit(patience):
                async with patience.wait():
                    response = await self._ask(body)
                joiner = DeltaJoiner()
                async with aclosing(self._deltas(response, turn, patience)) as deltas:
                    async for delta in deltas:
                        if text := joiner.push(delta):
                            yield text
                if rest := joiner.flush():
                    yield rest
        except Dropped:
            raise ChatFailed(
                "Sorry, the language model has too much to do just now.",
                "too many requests wait for the language model",
            ) from None
        except TimeoutError:
            raise ChatFailed(
                "Sorry, the language model took too long.",
                f"the language model said nothing for {self._endpoint.timeout_s:g} s",
            ) from None
        except aiohttp.ClientPayloadError as error:
            raise self._cut_off(str(error)) from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            if response is not None:
                raise self._malformed(str(error)) from error
            logger.warning("the chat endpoint cannot be reached (%s)", type(error).__name__)
            self._log_detail(str(error))
            raise ChatFailed(
                "Sorry, I cannot reach the language model.", "the language model cannot be reached"
            ) from error
        finally:
            if response is not None:
                # Ends the generation on the other side when the answer is not wanted any more.
                response.close()

    async def _ask(self, body: dict[str, Any]) -> aiohttp.ClientResponse:
        """The response, if it is one of success."""
        assert self._http is not None, "not started"
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self._endpoint.api_key:
            headers["Authorization"] = f"Bearer {self._endpoint.api_key}"
        url = self._endpoint.url.rstrip("/") + "/chat/completions"
        response = await self._http.post(url, json=body, headers=headers, allow_redirects=False)
        if response.status == 200:
            return response
        try:
            raise await self._refusal(response)
        finally:
            response.close()

    async def _deltas(
        self, response: aiohttp.ClientResponse, turn: Turn, patience: WaitBudget
    ) -> AsyncGenerator[str, None]:
        if response.content_type == "application/json":
            async with patience.wait():
                answer = await _read(response, MAX_ANSWER_BYTES)
            yield self._read_whole(answer, turn)
            return
        num_chars = 0
        is_finished = False
        async with aclosing(self._events(response, patience)) as events:
            async for data in events:
                delta, reason = self._read_event(data, turn)
                if reason and not is_finished:
                    is_finished = True
                    patience.hurry(END_GRACE_S)
                num_chars += len(delta)
                if delta:
                    yield delta
                if delta.strip() and not is_finished:
                    # Only words buy time; spoken ones cost none.
                    patience.restart()
                if num_chars > MAX_ANSWER_CHARS:
                    turn.incomplete = "the answer is too long"
                    return
        if not (is_finished or patience.is_ended):
            raise self._cut_off("the stream ended without its end mark")
        if num_chars == 0:
            raise ChatFailed(
                "Sorry, the language model gave no answer.", "the language model's answer is empty"
            )

    async def _events(
        self, response: aiohttp.ClientResponse, patience: WaitBudget
    ) -> AsyncGenerator[str, None]:
        """The data of each event up to the end mark, which may be missing in a hurry."""
        num_bytes = 0
        while True:
            try:
                async with patience.wait():
                    line = await response.content.readline()
            except TimeoutError:
                if patience.is_hurried:
                    return
                raise
            num_bytes += len(line)
            if num_bytes > MAX_STREAM_BYTES:
                raise self._malformed("more bytes than any answer has")
            if not line:
                return
            data = self._data_of(line)
            if data == "[DONE]":
                patience.is_ended = True
                return
            if data is not None:
                yield data

    def _read_event(self, data: str, turn: Turn) -> tuple[str, str]:
        """The text and the finish reason in one event."""
        event = self._parse(data)
        if event.get("error"):
            raise self._reported(event["error"])
        _count(event.get("usage"), turn)
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return "", ""
        choice = choices[0]
        if not isinstance(choice, dict):
            raise self._malformed("a choice that is no object")
        delta = choice.get("delta") or {}
        text = delta.get("content") if isinstance(delta, dict) else None
        reason = choice.get("finish_reason")
        return self._checked_text(text), _finish(reason, turn)

    def _read_whole(self, data: bytes, turn: Turn) -> str:
        """The text of an answer from a server that does not stream."""
        answer = self._parse(data.decode(errors="replace"))
        if answer.get("error"):
            raise self._reported(answer["error"])
        _count(answer.get("usage"), turn)
        try:
            choice = answer["choices"][0]
            text = self._checked_text(choice["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise self._malformed(f"no message in it ({error!r})") from error
        _finish(choice.get("finish_reason"), turn)
        return text[:MAX_ANSWER_CHARS]

    def _data_of(self, line: bytes) -> str | None:
        """The payload of one line of the event stream; None for comments, names, blank lines."""
        text = line.decode(errors="replace").strip()
        if not text or text.startswith((":", "event:", "id:", "retry:")):
            return None
        if not text.startswith("data:"):
            raise self._malformed("a line that is no event")
        return text.removeprefix("data:").strip()

    def _parse(self, data: str) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._malformed("an event that is not JSON") from error
        if not isinstance(event, dict):
            raise self._malformed("an event that is no object")
        return event

    def _checked_text(self, text: object) -> str:
        if text is None:
            return ""
        if not isinstance(text, str):
            raise self._malformed("content that is no text")
        return text

    async def _refusal(self, response: aiohttp.ClientResponse) -> ChatFailed:
        logger.warning("the chat endpoint answered with status %d", response.status)
        self._log_detail((await _read(response, MAX_REFUSAL_BYTES)).decode(errors="replace"))
        what = "is not working" if response.status >= 500 else "refused my request"
        return ChatFailed(
            f"Sorry, the language model {what}.",
            f"the language model {what.replace('my', 'the')}",
        )

    def _reported(self, error: object) -> ChatFailed:
        logger.warning("the chat endpoint reported an error")
        self._log_detail(str(error))
        return ChatFailed(
            "Sorry, the language model reported an error.", "the language model reported an error"
        )

    def _malformed(self, what: str) -> ChatFailed:
        logger.warning("the chat endpoint's answer is malformed")
        self._log_detail(what)
        return ChatFailed(
            "Sorry, I do not understand the language model's answer.",
            "the language model's answer is malformed",
        )

    def _cut_off(self, why: str) -> ChatFailed:
        logger.warning("the chat endpoint ended its answer early")
        self._log_detail(why)
        return ChatFailed(
            "Sorry, the language model's answer was cut off.",
            "the language model ended its answer early",
        )

    def _log_detail(self, text: str) -> None:
        """What the endpoint or a library says: one line, not too long, without the key."""
        if self._endpoint.api_key:
            text = text.replace(self._endpoint.api_key, "***")
        logger.debug(
            "the chat endpoint in its own words: %s", " ".join(text.split())[:MAX_LOGGED_CHARS]
        )


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body, its first `limit` bytes at most."""
    data = bytearray()
    while len(data) < limit and (more := await response.content.read(limit - len(data))):
        data += more
    return bytes(data)


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
