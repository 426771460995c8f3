"""Events of a session, held against OpenAI's own types for them."""

from __future__ import annotations

import json
from typing import Any, get_args

from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel

from tests.openai_types import live_events

TYPES: dict[str, type[BaseModel]] = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(RealtimeServerEvent)[0])
}
EXTENSIONS = frozenset(
    {
        *("session.queued", "session.warning", "session.ended", "session.continued", "metrics"),
        *("session.force_listen.updated", "session.muted", "session.paused", "session.resumed"),
    }
)
"""Ours, told where they are wanted."""
OUR_PART = "input_video"


def checked_event(text: str, extensions: frozenset[str] = EXTENSIONS) -> dict[str, Any]:
    """The event, if it is what its type says or one of `extensions`.

    Raises `ValidationError` for a wrong member, `AssertionError` for one too many.
    """
    event: dict[str, Any] = json.loads(text)
    if event["type"] in extensions:
        return event
    assert event["type"] in TYPES, f"no event of OpenAI's: {text}"
    parsed = TYPES[event["type"]].model_validate_json(_without_our_parts(text), strict=True)
    assert not (parsed.model_extra or {}), event
    return event


def checked_live_event(text: str) -> dict[str, Any]:
    """The same of OpenAI Live, where nothing is ours."""
    event: dict[str, Any] = json.loads(text)
    parsed = live_events().validate_python(event)
    assert parsed.type == event["type"] and not (parsed.model_extra or {}), event
    return event


def _without_our_parts(text: str) -> str:
    """The event without the films that an item shows."""
    if OUR_PART not in text:
        return text
    event = json.loads(text)
    item = event.get("item") or {}
    content = item.get("content") or []
    item["content"] = [part for part in content if part["type"] != OUR_PART]
    return json.dumps(event)
