"""Whatever JSON comes as an event is parsed or refused by the name of a field; nothing raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signaling.errors import ProtocolError
from signaling.realtime import server_events as ev
from signaling.realtime.client_events import (
    CLIENT_EVENT_TYPES,
    ResponseCreate,
    SessionUpdate,
    parse_client_event,
)
from signaling.realtime.client_items import parse_upload, unused_members
from signaling.realtime.response_options import wish_of
from signaling.session.core import Abilities
from signaling.settings import SessionSettings
from tests.openai_types import realtime_events

NAMES = (
    *("type", "event_id", "item", "item_id", "session", "response", "content", "role", "id"),
    *("text", "audio", "input", "output", "metadata", "instructions", "tools", "engine"),
    *("turn_detection", "output_modalities", "previous_item_id", "audio_end_ms", "conversation"),
    *("voice", "image_url", "call_id", "arguments", "truncation", "\ud83d", "\0", "a.b", "x[0]"),
)
WORDS = (*CLIENT_EVENT_TYPES, "message", "user", "input_text", "realtime", "server_vad", "text")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(WORDS)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=30,
)
MEMBERS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
EVENTS = st.builds(
    lambda name, members: members | {"type": name}, st.sampled_from(CLIENT_EVENT_TYPES), MEMBERS
)

ITEMS: tuple[dict[str, Any], ...] = (
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
    {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "o"},
    {"type": "item_reference", "id": "i"},
)
ODD_ITEMS = st.builds(lambda item, odd: item | odd, st.sampled_from(ITEMS), MEMBERS)
ODD_CONTENTS: tuple[Any, ...] = (5, "ab", ["x"], [{"a": 1}], [{"type": {}}], {"a": 1}, True)


@settings(max_examples=30)
@given(EVENTS | VALUES)
@example({"type": "response.create", "response": {"metadata": {"\ud83d": "\udc00"}}})
@example({"type": "response.create", "response": {"\ud83d": 1}})
@example({"type": "session.update", "session": {"engine": {"\ud83d": []}}})
def test_an_event_is_parsed_or_refused_by_the_name_of_a_field(value: Any) -> None:
    try:
        event = parse_client_event(json.dumps(value))
    except ProtocolError as error:
        realtime_events().validate_json(ev.encode(ev.error_event(error)), strict=True)
        assert error.message.endswith(".") and len(error.message) < 1000
        if isinstance(value, dict) and error.code != "invalid_json":
            assert error.param, error.message
    else:
        assert value["type"] in CLIENT_EVENT_TYPES
        repr(event).encode()


@settings(max_examples=20)
@given(MEMBERS)
@example({"tools": [{"\ud83d": "\ude00\0"}], "instructions": "half \ud83d"})
def test_settings_that_are_taken_can_be_told(update: dict[str, Any]) -> None:
    text = json.dumps({"type": "session.update", "session": update})
    try:
        event = parse_client_event(text)
    except ProtocolError as error:
        assert error.param is not None and error.param.startswith("session")
    else:
        assert isinstance(event, SessionUpdate)
        session = SessionSettings().merge(event.session).to_session("sess_1")
        ev.encode(ev.SessionUpdated(session=session)).encode()


def is_taken(item: dict[str, Any]) -> bool:
    """Whether an item is taken for the conversation, or else refused by a field; same for the
    input of a response."""
    asked = {"input": [item], "conversation": "none", "output_modalities": ["text"]}
    event = parse_client_event(json.dumps({"type": "response.create", "response": asked}))
    assert isinstance(event, ResponseCreate) and event.response is not None
    able = Abilities(answers_out_of_band=True)
    try:
        wish_of(event.response, SessionSettings(), able)
        names = unused_members((event.response.input or [])[0], "response.input.0")
        if item["type"] != "item_reference":
            found = parse_upload(json.dumps(item).encode()).unused
            assert [name.removeprefix("item") for name in found] == [
                name.removeprefix("response.input.0") for name in names
            ]
    except ProtocolError as error:
        assert error.param and error.param.startswith("response.input.0")
        return False
    return True


@settings(max_examples=30)
@given(ODD_ITEMS)
def test_an_item_is_taken_or_refused_by_the_name_of_a_field(item: dict[str, Any]) -> None:
    is_taken(item)


@pytest.mark.parametrize("content", ODD_CONTENTS, ids=repr)
def test_what_an_item_is_not_made_of_may_have_any_shape(content: Any) -> None:
    assert [is_taken(item | {"content": content}) for item in ITEMS] == [False, True, True, True]


@settings(deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_what_is_no_event_at_all_is_refused(text: str) -> None:
    try:
        parse_client_event(text)
    except ProtocolError as error:
        ev.encode(ev.error_event(error)).encode()
    else:
        raise AssertionError(text)
