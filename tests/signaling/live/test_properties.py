"""Whatever JSON comes over Live is taken or refused by the name of a field; nothing raises."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.errors import ProtocolError
from signaling.live import server_events as wire
from signaling.live.client_events import CLIENT_EVENTS, UNSERVED
from signaling.live.config_reading import read_config, read_media_config, read_update, resource
from signaling.live.settings import settings_of
from signaling.texts import decode_json
from tests.openai_types import live_events
from tests.signaling.live.rig import DoorRig

NAMES = (
    *("model", "instructions", "input", "audio", "format", "output", "voice", "delegation", "type"),
    *("responses", "tools", "name", "client", "data_channel", "allowed_client_events", "role"),
    *("allowed_server_events", "response_event", "content", "text", "rate", "id", "idle_timeout_s"),
    *("wake_policy", "store", "triggers", "event_id", "delegation_id", "session", "item", "\ud83d"),
)
WORDS = (
    *(*CLIENT_EVENTS, *UNSERVED, "client", "responses", "decisions", "audio/pcm", "user", "all"),
    *("function", "function_call_output", "response.event", "speech", "marin", "developer"),
)
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
    lambda name, members: members | {"type": name}, st.sampled_from(tuple(CLIENT_EVENTS)), MEMBERS
)


@settings(max_examples=25)
@given(EVENTS | VALUES)
def test_an_event_is_taken_or_answered_with_an_error(value: Any) -> None:
    rig = DoorRig({"delegation": {"type": "client"}}, kind="data_channel").start()
    rig.take()
    rig.primary.receive(json.dumps(value))
    for event in rig.take():
        assert event["type"] != "error" or event["error"]["message"].endswith(".")


@settings(max_examples=25)
@given(MEMBERS | VALUES)
def test_a_configuration_is_taken_or_refused_by_its_member(value: Any) -> None:
    for read in (read_config, read_media_config):
        try:
            config = read(decode_json(json.dumps(value)))
            settings_of(config)
        except ProtocolError as error:
            assert error.param and error.param.startswith("session"), error.message
            live_events().validate_json(wire.encode(wire.live_error(error)))
        else:
            session = resource(config, "live_1", 1_900_000_000)
            live_events().validate_json(wire.encode(wire.LiveStarted(session=session)))


@settings(max_examples=25)
@given(MEMBERS | VALUES)
def test_an_update_is_taken_or_refused_by_its_member(value: Any) -> None:
    config = read_config({"model": "m", "delegation": {"type": "responses", "responses": BACKEND}})
    try:
        read_update(decode_json(json.dumps(value)), config)
    except ProtocolError as error:
        assert error.param and error.param.startswith("session"), error.message


BACKEND = {"model": "b"}
