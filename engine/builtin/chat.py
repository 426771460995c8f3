"""Answers from an OpenAI-compatible `/v1/chat/completions` endpoint, streamed as they come."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from engine.builtin.call_deltas import CallPart
from engine.builtin.chat_answer import ChatAnswer, ReportedError
from engine.builtin.chat_request import request_body
from engine.builtin.gate import Dropped, Gate, WaitBudget
from engine.builtin.interfaces import ChatFailed, Turn
from engine.config import ChatEndpoint

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

    async def reply(self, turn: Turn) -> AsyncGenerator[str | CallPart, None]:
        """Yield the answer's words and calls; raise `ChatFailed` if it is not whole."""
        patience = WaitBudget(self._endpoint.timeout_s)
        response: aiohttp.ClientResponse | None = None
        try:
            body = await request_body(turn, self._endpoint)
            async with self._gate.admit(patience):
                async with patience.wait():
                    response = await self._ask(body)
                async with aclosing(self._parts(response, ChatAnswer(turn), patience)) as parts:
                    async for part in parts:
                        yield part
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
        except ReportedError as error:
            raise self._reported(str(error)) from error
        except aiohttp.ClientPayloadError as error:
            raise self._cut_off(str(error)) from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            raise self._broken(error, has_begun=response is not None) from error
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

    async def _parts(
        self, response: aiohttp.ClientResponse, answer: ChatAnswer, patience: WaitBudget
    ) -> AsyncGenerator[str | CallPart, None]:
        if response.content_type == "application/json":
            async with patience.wait():
                whole = await _read(response, MAX_ANSWER_BYTES)
            for part in [*answer.whole(whole), *answer.end()]:
                yield part
            return
        async with aclosing(self._streamed(response, answer, patience)) as parts:
            async for part in parts:
                yield part
        if answer.is_too_long:
            return
        if not (answer.is_finished or patience.is_ended):
            raise self._cut_off("the stream ended without its end mark")
        for part in answer.end():
            yield part
        if answer.is_empty:
            raise ChatFailed(
                "Sorry, the language model gave no answer.", "the language model's answer is empty"
            )

    async def _streamed(
        self, response: aiohttp.ClientResponse, answer: ChatAnswer, patience: WaitBudget
    ) -> AsyncGenerator[str | CallPart, None]:
        """What comes until the end mark, or until it is too much."""
        async with aclosing(self._events(response, patience)) as events:
            async for data in events:
                was_finished = answer.is_finished
                parts = answer.event(data)
                if answer.is_finished and not was_finished:
                    patience.hurry(END_GRACE_S)
                for part in parts:
                    yield part
                if not answer.is_finished and any(map(_is_progress, parts)):
                    # Only words buy time; spoken ones cost none.
                    patience.restart()
                if answer.is_too_long:
                    return

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

    def _data_of(self, line: bytes) -> str | None:
        """The payload of one line of the event stream; None for comments, names, blank lines."""
        text = line.decode(errors="replace").strip()
        if not text or text.startswith((":", "event:", "id:", "retry:")):
            return None
        if not text.startswith("data:"):
            raise self._malformed("a line that is no event")
        return text.removeprefix("data:").strip()

    async def _refusal(self, response: aiohttp.ClientResponse) -> ChatFailed:
        logger.warning("the chat endpoint answered with status %d", response.status)
        self._log_detail((await _read(response, MAX_REFUSAL_BYTES)).decode(errors="replace"))
        what = "is not working" if response.status >= 500 else "refused my request"
        return ChatFailed(
            f"Sorry, the language model {what}.",
            f"the language model {what.replace('my', 'the')}",
        )

    def _reported(self, error: str) -> ChatFailed:
        logger.warning("the chat endpoint reported an error")
        self._log_detail(error)
        return ChatFailed(
            "Sorry, the language model reported an error.", "the language model reported an error"
        )

    def _broken(self, error: Exception, *, has_begun: bool) -> ChatFailed:
        """What an error of the connection or of reading means."""
        if has_begun:
            return self._malformed(str(error))
        logger.warning("the chat endpoint cannot be reached (%s)", type(error).__name__)
        self._log_detail(str(error))
        return ChatFailed(
            "Sorry, I cannot reach the language model.", "the language model cannot be reached"
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


def _is_progress(part: str | CallPart) -> bool:
    return isinstance(part, CallPart) or bool(part.strip())
