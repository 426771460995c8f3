"""Events for clients that take small messages: split, shortened or refused, and always told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.realtime import extension_events as ours
from signaling.realtime import server_events as ev
from signaling.realtime.fitting import fitted
from signaling.settings import SessionSettings
from tests.openai_types import realtime_events

LIMIT = 2000


def sent(event: Any, limit: int = LIMIT) -> list[dict[str, Any]]:
    """The events as the client gets them, each small enough and of OpenAI's types."""
    texts = list(fitted(event, limit))
    assert not limit or all(len(text.encode()) <= limit for text in texts)
    events = [json.loads(text) for text in texts]
    for text, decoded in zip(texts, events, strict=True):
        if decoded["type"] != "session.warning":
            realtime_events().validate_json(text, strict=True)
    return events


def item(*texts: str) -> ev.WireMessage:
    content = tuple(ev.WirePart(type="input_text", text=text) for text in texts)
    return ev.WireMessage(id="item_1", role="user", status="completed", content=content)


def test_what_fits_is_sent_as_it_is() -> None:
    event = ev.ItemAddedEvent(item=item("hello"))
    assert list(fitted(event, LIMIT)) == [ev.encode(event)]
    large = ev.ItemAddedEvent(item=item("x" * 100_000))
    assert list(fitted(large, 0)) == [ev.encode(large)]


@settings(max_examples=20)
@given(st.text('aé\u4f60\0"\U0001f600', min_size=1000, max_size=3000))
def test_a_delta_is_split_and_nothing_of_it_is_lost(text: str) -> None:
    event = ev.AudioTranscriptDelta(response_id="resp_1", item_id="item_2", delta=text)
    pieces = sent(event)
    assert "".join(piece["delta"] for piece in pieces) == text
    assert len({piece["event_id"] for piece in pieces}) == len(pieces)
    assert {piece["item_id"] for piece in pieces} == {"item_2"}


@pytest.mark.parametrize("large", ["tools", "instructions"])
def test_a_session_is_told_without_what_the_client_said_itself(large: str) -> None:
    settings = {
        "instructions": "y" * (3000 if large == "instructions" else 10),
        "tools": [{"type": "function", "name": f"f{i}", "description": "d" * 90} for i in range(40)]
        if large == "tools"
        else [],
    }
    session = SessionSettings().merge(settings).to_session("sess_1")
    updated, warning = sent(ev.SessionUpdated(session=session))
    assert updated["type"] == "session.updated" and not updated["session"][large]
    assert updated["session"]["audio"] == json.loads(json.dumps(session["audio"]))
    assert (warning["type"], warning["code"]) == ("session.warning", "event_shortened")
    assert f"session.{large}" in warning["message"] and updated["event_id"] in warning["message"]
    if large == "tools":
        assert updated["session"]["instructions"] == "y" * 10


def test_long_texts_of_an_item_are_cut_and_short_ones_stay() -> None:
    added, warning = sent(ev.ItemAddedEvent(item=item("short", "é" * 5000, "\0" * 900)))
    short, *cut = [part["text"] for part in added["item"]["content"]]
    assert short == "short" and all(text.endswith("…") for text in cut)
    assert warning["code"] == "event_shortened" and added["event_id"] in warning["message"]


def test_what_cannot_be_shortened_becomes_an_error() -> None:
    figures = {f"figure_{index}": index for index in range(1000)}
    [error] = sent(ours.Metrics(metrics=figures))
    assert error["type"] == "error" and error["error"]["code"] == "event_too_large"
    assert "metrics" in error["error"]["message"]


def test_where_nothing_fits_nothing_is_sent() -> None:
    assert sent(ev.ItemAddedEvent(item=item("x")), limit=40) == []
