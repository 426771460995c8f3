"""Nothing of an item that a client of OpenAI's creates is silently ignored.

Walks the types of the `openai` package: each member of an item changes what comes of it, is told of
by its name, or is refused by its name. `test_fates.py` does so for sessions and responses.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import openai.types.realtime as openai_types
import pytest
from msgspec.structs import replace

from engine.ipc import protocol as p
from signaling.session.core import Abilities
from tests.server.worker.talk import Talk

CALL = {"type": "function_call", "call_id": "called", "name": "weather", "arguments": "{}"}
ITEMS: dict[str, dict[str, Any]] = {
    "RealtimeConversationItemSystemMessage": {"type": "message", "role": "system"},
    "RealtimeConversationItemUserMessage": {"type": "message", "role": "user"},
    "RealtimeConversationItemAssistantMessage": {"type": "message", "role": "assistant"},
    "RealtimeConversationItemFunctionCall": CALL,
    "RealtimeConversationItemFunctionCallOutput": {
        **{"type": "function_call_output", "call_id": "called", "output": "rain"},
    },
}
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "system": {"input_text": {"text": "hi"}},
    "user": {
        "input_text": {"text": "hi"},
        "input_image": {"image_url": "data:image/png;base64,AAAA"},
        "input_audio": {"audio": "AAAA" * 2400},
    },
    "assistant": {"output_text": {"text": "hi"}, "output_audio": {"transcript": "hi"}},
}
VALUES: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys(("id", "name", "text", "transcript", "output", "call_id"), ("one", "two")),
    "arguments": ('{"n": 1}', '{"n": 2}'),
    "audio": ("AAAA" * 2400, "AAAA" * 4800),
    "detail": ("low", "high"),
    "image_url": ("data:image/png;base64,AAAA", "data:image/png;base64,BBBB"),
}
FIXED = {
    "type": "says what it is",
    "role": "says whose it is",
    "object": "is always realtime.item",
    "status": "has no effect, says its type: shown is how an item stands",
    "content": "is made of its parts",
}


def cases() -> Iterator[Any]:
    """Each member, in each kind of item and part that it may stand in."""
    for name, item in ITEMS.items():
        for member in getattr(openai_types, name).model_fields:
            if member not in FIXED:
                yield pytest.param(item, "", member, id=f"{item['type']}.{member}")
    for name, item in ITEMS.items():
        content = getattr(openai_types, name).model_fields.get("content")
        [part] = typing.get_args(content.annotation) if content is not None else [None]
        for member in part.model_fields if part is not None else ():
            for kind in PARTS[item["role"]] if member not in FIXED else ():
                yield pytest.param(item, kind, member, id=f"{item['role']}.{kind}.{member}")


def made(item: dict[str, Any], kind: str, member: str, value: Any) -> dict[str, Any]:
    """An item with this member."""
    if kind:
        part = {"type": kind, **PARTS[item["role"]][kind], member: value}
        return {**item, "content": [part]}
    parts = PARTS.get(item.get("role", ""), {})
    content = {"content": [{"type": kind, **part} for kind, part in parts.items()]}
    return {**item, **(content if parts else {}), member: value}


def fate(item: dict[str, Any]) -> tuple[list[str], str]:
    """What was told by name, and all that came of it."""
    talk = Talk()
    talk.ask({"type": "conversation.item.create", "item": CALL})
    events, sent = len(talk.events), len(talk.to_engine)
    talk.ask({"type": "conversation.item.create", "item": item})
    told, shown = [], []
    for event in talk.events[events:]:
        match event["type"]:
            case "error":
                told.append(event["error"]["message"])
            case "session.warning":
                told.append(event["message"])
            case "conversation.item.added":
                own = event["item"]["id"] if "id" in item else ""
                shown.append(event["item"] | {"id": own})
    passed = [replace(message, item="") for message in talk.to_engine[sent:]]
    return told, f"{shown} {passed}"


@pytest.mark.parametrize(("item", "kind", "member"), list(cases()))
def test_each_member_of_an_item_counts_or_is_told_of(
    item: dict[str, Any], kind: str, member: str
) -> None:
    one, two = (fate(made(item, kind, member, value)) for value in VALUES[member])
    where = f"item.content.0.{member}" if kind else f"item.{member}"
    is_named = all(any(where in text for text in told) for told, _ in (one, two))
    assert is_named or one[1] != two[1], "it came to nothing"


def test_a_member_without_effect_is_told_of_once() -> None:
    talk = Talk()
    for _ in range(2):
        part = {"type": "output_audio", "transcript": "hi", "audio": "AAAA"}
        item = {"type": "message", "role": "assistant", "content": [part]}
        talk.ask({"type": "conversation.item.create", "item": item})
    assert talk.one("session.warning")["code"] == "unused_member"
    assert len(talk.of("conversation.item.added")) == 2


def test_so_is_one_that_nobody_knows() -> None:
    talk = Talk()
    part = {"type": "input_text", "text": "hi", "txet": "ho"}
    item = {"type": "message", "role": "user", "content": [part], "colour": 1, "object": "x"}
    talk.ask({"type": "conversation.item.create", "item": {**item, "phase": None}})
    told = [event["message"].partition(":")[0] for event in talk.of("session.warning")]
    assert told == ["item.colour", "item.content.0.txet"]


def test_so_is_one_of_what_a_response_is_made_from() -> None:
    talk = Talk()
    talk.conversation.abilities = Abilities(answers_out_of_band=True)
    item = {"type": "message", "role": "system", "colour": 1}
    item |= {"content": [{"type": "input_text", "text": "hi"}]}
    asked = {"conversation": "none", "output_modalities": ["text"], "input": [item]}
    talk.ask({"type": "response.create", "response": asked})
    assert len(talk.sent(p.CreateResponse)) == 1
    assert talk.one("session.warning")["message"].startswith("response.input.0.colour:")


@pytest.mark.parametrize(
    "kind", ["mcp_approval_response", "mcp_approval_request", "mcp_list_tools", "mcp_call"]
)
def test_items_of_servers_tools_are_refused_by_their_type(kind: str) -> None:
    talk = Talk()
    talk.ask({"type": "conversation.item.create", "item": {"type": kind, "id": "m"}})
    assert talk.one("error")["error"]["param"] == "item.type" and talk.to_engine == []
