"""Who waits for the answer to a question or to a change of settings."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from omnicall.client.carrier import Event
from omnicall.client.errors import CallOver, RequestFailed


class Reply(NamedTuple):
    """An answer of the model; `status` is completed, cancelled or incomplete."""

    text: str
    status: str


class Expected(NamedTuple):
    event_ids: frozenset[str]
    future: asyncio.Future[Any]


class PendingReplies:
    """Answers come in the order of what asked for them; an `error` names the event it is about."""

    def __init__(self) -> None:
        self._replies: deque[Expected] = deque()
        self._updates: deque[Expected] = deque()
        self._answering = ""

    def reply(self, *event_ids: str) -> asyncio.Future[Reply]:
        """To be awaited for the answer that these events ask for."""
        return _expect(self._replies, event_ids)

    def update(self, event_id: str) -> asyncio.Future[Event]:
        """To be awaited for the session after a `session.update`."""
        return _expect(self._updates, (event_id,))

    def apply(self, event: Event, *, calls_functions: bool) -> None:
        """`calls_functions`: another response follows, of which the answer is part."""
        match event.get("type"):
            case "session.updated" if self._updates:
                _settle(self._updates.popleft(), event["session"])
            case "error":
                self._fail(event.get("error") or {})
            case "session.continued":
                self._continued(event)
            case "response.created" if self._replies and not self._answering:
                self._answering = event["response"]["id"]
            case "response.done" if event["response"]["id"] == self._answering:
                self._answering = ""
                if not calls_functions and self._replies:
                    self._done(self._replies.popleft(), event["response"])

    def is_unasked(self, continued: Event) -> bool:
        """Whether an answer is waited for that the server, which goes on, does not give."""
        return bool(self._replies) and not self._answering and not continued.get("responses")

    def _continued(self, event: Event) -> None:
        """An answer that ended while nothing was heard of the server is what stands of it."""
        if not self._answering or self._answering in event.get("responses", []):
            return
        self._answering = ""
        said = [item for item in event.get("items", []) if item.get("role") == "assistant"]
        status = "completed" if said and said[-1].get("status") == "completed" else "cancelled"
        if self._replies:
            _settle(self._replies.popleft(), Reply(_text_of(said[-1]) if said else "", status))

    def end(self, end: CallOver) -> None:
        for expected in (*self._replies, *self._updates):
            if not expected.future.done():
                expected.future.set_exception(end)

    def _done(self, expected: Expected, response: Event) -> None:
        if response.get("status") != "failed":
            text = " ".join(filter(None, map(_text_of, response.get("output", []))))
            _settle(expected, Reply(text, str(response.get("status"))))
        elif not expected.future.done():
            details = response.get("status_details") or {}
            expected.future.set_exception(_failure(details.get("error") or {}))

    def _fail(self, error: Event) -> None:
        for queue in (self._replies, self._updates):
            for expected in tuple(queue):
                if error.get("event_id") in expected.event_ids:
                    queue.remove(expected)
                    if not expected.future.done():
                        expected.future.set_exception(_failure(error))


def _expect(queue: deque[Expected], event_ids: tuple[str, ...]) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    queue.append(Expected(frozenset(event_ids), future))
    return future


def _settle(expected: Expected, result: Any) -> None:
    if not expected.future.done():
        expected.future.set_result(result)


def _failure(error: Event) -> RequestFailed:
    message = str(error.get("message") or "The server gave no reason.")
    return RequestFailed(message, code=str(error.get("code") or ""), param=error.get("param"))


def _text_of(item: Event) -> str:
    parts = item.get("content") or []
    return "".join(str(part.get("transcript") or part.get("text") or "") for part in parts)
