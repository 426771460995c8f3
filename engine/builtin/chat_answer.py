"""An answer of a chat endpoint as it is read: words, calls of functions, the figures at its end."""

from __future__ import annotations

import json
from typing import Any

from engine.builtin.call_deltas import CallJoiner, CallPart
from engine.builtin.deltas import DeltaJoiner
from engine.builtin.interfaces import Turn
from engine.ipc.protocol import TokenSplit

MAX_ANSWER_CHARS = 20_000


class ReportedError(Exception):
    """The endpoint tells of an error, in its own words."""


class ChatAnswer:
    """Owns what is known of one answer, and enters its figures into its turn.

    Whatever cannot be read raises `ValueError`.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._words = DeltaJoiner()
        self._calls = CallJoiner(turn.conversation.has_call)
        self._num_chars = 0
        self.is_finished = False
        """The endpoint told the reason for which it ends."""

    @property
    def is_too_long(self) -> bool:
        return self._num_chars > MAX_ANSWER_CHARS

    @property
    def is_empty(self) -> bool:
        return self._num_chars == 0 and not self._calls.has_calls

    def event(self, data: str) -> list[str | CallPart]:
        """What one event of a stream adds."""
        event = _parsed(data)
        self._count(event.get("usage"))
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return []
        choice = choices[0]
        if not isinstance(choice, dict):
            raise ValueError("a choice that is no object")
        delta = choice.get("delta")
        parts = self._take(delta if isinstance(delta, dict) else {})
        self._finish(choice.get("finish_reason"))
        return parts

    def whole(self, data: bytes) -> list[str | CallPart]:
        """The answer of a server that does not stream."""
        answer = _parsed(data.decode(errors="replace"))
        self._count(answer.get("usage"))
        try:
            choice = answer["choices"][0]
            message = choice["message"]
            content = (message.get("content") or "")[:MAX_ANSWER_CHARS]
            parts = self._take({**message, "content": content})
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"no message in it ({error!r})") from error
        self._finish(choice.get("finish_reason"))
        return parts

    def end(self) -> list[str | CallPart]:
        """What is left when nothing more comes."""
        rest = self._words.flush()
        return [*([rest] if rest else []), *self._calls.flush()]

    def _take(self, delta: dict[str, Any]) -> list[str | CallPart]:
        content = delta.get("content")
        if content is not None and not isinstance(content, str):
            raise ValueError("content that is no text")
        text = self._words.push(content or "")
        self._num_chars += len(content or "")
        if self.is_too_long:
            self._turn.incomplete = "the answer is too long"
        parts: list[str | CallPart] = [text] if text else []
        # Without functions there are none to call.
        if self._turn.tools and delta.get("tool_calls"):
            parts += self._calls.push(delta["tool_calls"])
        return parts

    def _finish(self, reason: object) -> None:
        if reason == "length":
            self._turn.incomplete = "the token limit was reached"
        elif reason == "content_filter":
            self._turn.incomplete = "the language model's content filter"
        self.is_finished = self.is_finished or bool(reason)

    def _count(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        turn = self._turn
        turn.input_tokens = _number(usage, "prompt_tokens") or 0
        turn.output_tokens = _number(usage, "completion_tokens") or 0
        details = usage.get("prompt_tokens_details")
        read: dict[str, Any] = details if isinstance(details, dict) else {}
        words, pictures = _number(read, "text_tokens"), _number(read, "image_tokens")
        if not turn.has_pictures:
            words, pictures = turn.input_tokens, 0
        # It is sent no sound, and gives none back.
        cached = _number(read, "cached_tokens")
        turn.input_split = TokenSplit(words, 0, pictures, cached)
        turn.output_split = TokenSplit(turn.output_tokens, 0)


def _number(figures: dict[str, Any], name: str) -> int | None:
    value = figures.get(name)
    return value if isinstance(value, int) and value >= 0 else None


def _parsed(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("an event that is not JSON") from error
    if not isinstance(event, dict):
        raise ValueError("an event that is no object")
    if event.get("error"):
        raise ReportedError(str(event["error"]))
    return event
