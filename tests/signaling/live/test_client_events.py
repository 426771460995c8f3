"""Events of Live clients: every type of the `openai` package has its fate here."""

import base64
import json
from typing import Any, get_args

import pytest
from openai.types.live import ClientEvent, ConnectClientEvent

from signaling.errors import ProtocolError
from signaling.live import client_events as c

EVENTS: list[dict[str, Any]] = [
    {"type": "session.start", "session": {"model": "m"}},
    {"type": "session.update", "session": {}},
    {"type": "session.input_audio.append", "audio": "AAA="},
    {"type": "session.input_audio.mute", "event_id": "e1"},
    {"type": "session.input_audio.unmute", "event_id": None},
    {"type": "session.instructions.append", "content": "x", "delegation_id": None},
    {"type": "session.thinking.append", "content": "x", "delegation_id": "item_1"},
    {"type": "session.commentary.append", "content": "x", "delegation_id": None},
    {"type": "session.output_audio.fixture.play", "audio": "AAA="},
    {"type": "response.item.create", "item": {}},
    {"type": "response.create"},
    {"type": "session.close"},
]


def parse(event: dict[str, Any]) -> c.LiveClientEvent:
    return c.parse_live_event(json.dumps(event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["type"])
def test_every_served_event_is_read(event: dict[str, Any]) -> None:
    assert parse(event).type == event["type"]


def types_of(union: Any) -> set[str]:
    [members, _] = get_args(union)
    return {get_args(m.model_fields["type"].annotation)[0] for m in get_args(members)}


def test_every_event_of_the_package_is_served_or_refused_by_name() -> None:
    known = {*c.CLIENT_EVENTS, *c.UNSERVED} - c.OURS
    assert types_of(ClientEvent) | types_of(ConnectClientEvent) == known
    for name in c.UNSERVED:
        with pytest.raises(ProtocolError) as caught:
            parse({"type": name, "event_id": "e"})
        assert caught.value.code == "not_supported" and caught.value.event_id == "e"


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({"type": "input_audio_buffer.commit"}, "unknown_event", "type"),
        ({"event_id": "e"}, "missing_required_parameter", "type"),
        (
            {"type": "session.thinking.append", "content": "x"},
            "missing_required_parameter",
            "delegation_id",
        ),
        (
            {"type": "session.thinking.append", "content": "", "delegation_id": None},
            "invalid_value",
            "content",
        ),
        (
            {"type": "session.thinking.append", "content": "x" * 2_001, "delegation_id": None},
            "content_too_long",
            "content",
        ),
        ({"type": "session.close", "reason": "x"}, "unknown_parameter", "reason"),
        ({"type": "session.start"}, "missing_required_parameter", "session"),
    ],
)
def test_what_is_wrong_is_named(event: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse({"event_id": "e1", **event})
    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_refused_commit_lists_what_is_known() -> None:
    with pytest.raises(ProtocolError, match="session.commentary.append"):
        parse({"type": "input_audio_buffer.commit"})


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '"x"'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        c.parse_live_event(text)


def test_500_tokens_are_taken() -> None:
    parse({"type": "session.thinking.append", "content": "x" * 2_000, "delegation_id": None})
    parse({"type": "session.thinking.append", "content": "字" * 500, "delegation_id": None})


@pytest.mark.parametrize("audio", ["", "AAA", "A A=", "AA==", "!!!!"])
def test_bad_sound_is_refused(audio: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        c.decode_audio(audio, max_bytes=100)
    assert (caught.value.code, caught.value.param) == ("invalid_audio", "audio")


def test_a_fixture_lasts_30_s_at_most() -> None:
    event = c.FixturePlay(type="x", audio=base64.b64encode(bytes(48_000 * 30)).decode())
    assert len(c.fixture_pcm(event)) == 48_000 * 30
    long = c.FixturePlay(type="x", audio=base64.b64encode(bytes(48_000 * 30 + 2)).decode())
    with pytest.raises(ProtocolError):
        c.fixture_pcm(long)
