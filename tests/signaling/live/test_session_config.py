"""Strict validation of a Live session: each wrong member is refused by its path."""

from typing import Any

import pytest
from openai.types.live import SessionConfig
from openai.types.live.session_resource import SessionResource
from pydantic import TypeAdapter

from signaling.errors import ProtocolError
from signaling.live.config_reading import read_config, read_media_config, read_update, resource
from signaling.live.session_config import CalledConfig, LinearPcm, MuLaw, ResponsesDelegation
from signaling.live.settings import settings_of

TOOL = {"type": "function", "name": "look_up", "parameters": {"type": "object"}}
RESPONSES = {"type": "responses", "responses": {"model": "gpt-5.6-luna", "tools": [TOOL]}}
FULL: dict[str, Any] = {
    "model": "gpt-live-1",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": [{"text": "The user is Ann.", "type": "input_text"}]},
        {"role": "user", "content": [{"text": "Hi"}], "id": "item_1", "type": "message"},
        {"role": "assistant", "content": [{"text": "Hello", "type": "output_text"}]},
    ],
    "audio": {"format": {"type": "audio/pcmu", "rate": 8000}, "output": {"voice": {"id": "v1"}}},
    "delegation": RESPONSES,
    "store": False,
    "safety_identifier": "user-7",
    "triggers": [],
}


def test_everything_that_is_served_is_read() -> None:
    TypeAdapter(SessionConfig).validate_python(FULL, strict=False)
    config = read_config(FULL)
    assert config.format == MuLaw() and config.voice == "v1"
    assert isinstance(config.delegation, ResponsesDelegation)


def test_little_is_needed() -> None:
    config = read_config({"model": "m", "delegation": None, "instructions": None})
    assert (config.format, config.voice, config.delegation) == (LinearPcm(), "", None)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "invalid_value", "model"),
        ({"modle": "x"}, "unknown_parameter", "modle"),
        ({"tools": []}, "unknown_parameter", "tools"),
        ({"audio": {"input": {}}}, "unknown_parameter", "audio.input"),
        (
            {"audio": {"format": {"type": "audio/pcm", "rate": 48000}}},
            "invalid_value",
            "audio.format.rate",
        ),
        ({"audio": {"format": {"type": "opus"}}}, "invalid_value", "audio.format.type"),
        ({"audio": {"output": {"speed": 1}}}, "unknown_parameter", "audio.output.speed"),
        (
            {"input": [{"role": "user", "content": []}]},
            "invalid_value",
            "input.0.content",
        ),
        (
            {"input": [{"role": "system", "content": [{"text": "x"}]}]},
            "invalid_value",
            "input.0.role",
        ),
        (
            {"input": [{"role": "user", "content": [{"text": "x", "type": "input_audio"}]}]},
            "invalid_value",
            "input.0.content.0.type",
        ),
        ({"delegation": {"type": "decisions"}}, "unsupported_value", "delegation.type"),
        (
            {"delegation": {"type": "responses"}},
            "missing_required_parameter",
            "delegation.responses",
        ),
        (
            {"delegation": {"type": "responses", "responses": {}}},
            "missing_required_parameter",
            "delegation.responses.model",
        ),
        (
            {"delegation": {"type": "client", "responses": {}}},
            "unknown_parameter",
            "delegation.responses",
        ),
        (
            {"delegation": {**RESPONSES, "responses": {"model": "m", "max_output_tokens": 1}}},
            "invalid_value",
            "delegation.responses.max_output_tokens",
        ),
        (
            {
                "delegation": {
                    "type": "responses",
                    "responses": {"model": "m", "tools": [{"type": "web_search"}]},
                }
            },
            "unsupported_value",
            "delegation.responses.tools.0.type",
        ),
        ({"triggers": [{"type": "x"}]}, "unsupported_value", "triggers"),
        ({"store": True}, "storage_unavailable", "store"),
        ({"client": {"data_channel": {}}}, "unsupported_value", "client"),
        ({"idle_timeout_s": 5}, "unknown_parameter", "idle_timeout_s"),
        ({"instructions": "x" * 65_537}, "invalid_value", "instructions"),
        ({"instructions": "字" * 16_385}, "content_too_long", "instructions"),
        (
            {"input": [{"role": "user", "content": [{"text": "x" * 32_800}]}]},
            "content_too_long",
            "input",
        ),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_config({"model": "m", **change})
    assert (caught.value.code, caught.value.param) == (code, f"session.{param}")
    assert caught.value.message.startswith(f"session.{param}: ")


def test_ids_of_history_are_given_once() -> None:
    past = {"role": "user", "content": [{"text": "x"}], "id": "i"}
    with pytest.raises(ProtocolError) as caught:
        read_config({"model": "m", "input": [past, past]})
    assert caught.value.param == "session.input"


def test_what_an_engine_would_be_given_is_bounded_at_the_start() -> None:
    long = {"model": "b", "instructions": "x" * 30_000}
    delegation = {"type": "responses", "responses": long}
    config = read_config({"model": "m", "instructions": "x" * 30_000, "delegation": delegation})
    with pytest.raises(ProtocolError) as caught:
        settings_of(config)
    assert caught.value.param == "session.instructions"


def test_a_session_is_an_object() -> None:
    with pytest.raises(ProtocolError) as caught:
        read_config(["model"])
    assert caught.value.param == "session"


# ------------------------------------------------------------------ beside an offer


def test_a_data_channel_may_be_bounded_and_a_session_may_pause() -> None:
    config = read_media_config(
        {
            "model": "m",
            "idle_timeout_s": 30,
            "wake_policy": {"type": "speech", "vad_threshold": 0.7},
            "client": {
                "data_channel": {
                    "allowed_client_events": ["session.close"],
                    "allowed_server_events": [
                        {"type": "session.started"},
                        {"type": "response.event", "response_event": "response.completed"},
                    ],
                }
            },
        }
    )
    assert config.wake_policy is not None and config.wake_policy.vad_threshold == 0.7
    assert config.rights.allowed_client_events == ("session.close",)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"audio": {"format": {"type": "audio/pcm"}}}, "audio.format"),
        ({"idle_timeout_s": 0}, "idle_timeout_s"),
        ({"idle_timeout_s": 1.5}, "idle_timeout_s"),
        ({"idle_timeout_s": 9, "wake_policy": {"type": "word"}}, "wake_policy.type"),
        ({"wake_policy": {"type": "speech"}}, "idle_timeout_s"),
        (
            {"client": {"data_channel": {"allowed_server_events": [{"type": "response.event"}]}}},
            "client.data_channel.allowed_server_events.0.response_event",
        ),
        (
            {
                "client": {
                    "data_channel": {
                        "allowed_server_events": [{"type": "error", "response_event": "x"}]
                    }
                }
            },
            "client.data_channel.allowed_server_events.0.response_event",
        ),
    ],
)
def test_what_is_wrong_beside_an_offer_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_media_config({"model": "m", **change})
    assert caught.value.param == f"session.{param}"


# ------------------------------------------------------------------ updates


def test_an_update_merges_objects_and_replaces_lists() -> None:
    config = read_config({"model": "m", "delegation": RESPONSES})
    tool = {**TOOL, "name": "other"}
    backend = {"tools": [tool], "reasoning": {"effort": "low"}}
    changed = read_update({"delegation": {"type": "responses", "responses": backend}}, config)
    assert isinstance(changed.delegation, ResponsesDelegation)
    assert changed.delegation.responses.model == "gpt-5.6-luna"
    assert changed.delegation.responses.tools == (tool,)
    kept = read_update({"delegation": {"type": "responses"}}, changed)
    assert kept == changed


def test_a_delay_can_be_changed() -> None:
    config = read_config({"model": "m", "delegation": {"type": "client"}})
    update = {"delegation": {"type": "client", "acknowledgement_delay_ms": 400}}
    changed = read_update(update, config)
    assert changed.delegation is not None and changed.delegation.acknowledgement_delay_ms == 400
    assert read_update({}, changed) is changed


@pytest.mark.parametrize(
    ("start", "update", "code", "param"),
    [
        ({}, {"instructions": "x"}, "immutable_field_update", "instructions"),
        ({}, {"model": "x"}, "immutable_field_update", "model"),
        ({}, {"delegation": RESPONSES}, "immutable_field_update", "delegation.type"),
        ({"delegation": RESPONSES}, {"delegation": None}, "immutable_field_update", None),
        (
            {"delegation": RESPONSES},
            {"delegation": {"type": "client"}},
            "immutable_field_update",
            None,
        ),
        ({}, {"voice": "x"}, "unknown_parameter", "voice"),
        ({}, {"triggers": [{}]}, "unsupported_value", "triggers"),
    ],
)
def test_what_is_fixed_stays(
    start: dict[str, Any], update: dict[str, Any], code: str, param: str | None
) -> None:
    config = read_config({"model": "m", **start})
    with pytest.raises(ProtocolError) as caught:
        read_update(update, config)
    assert caught.value.code == code
    assert param is None or caught.value.param == f"session.{param}"


# ------------------------------------------------------------------ what clients see


def test_the_resource_is_whole_and_says_nothing_of_the_user() -> None:
    shown = resource(read_config(FULL), "live_1", 1_900_000_000)
    parsed = SessionResource.model_validate(shown)
    assert parsed.id == "live_1" and parsed.status == "active"
    assert shown["audio"] == FULL["audio"]
    assert "safety_identifier" not in shown


def test_the_resource_of_a_small_configuration_is_resolved() -> None:
    shown = resource(read_config({"model": "m"}), "live_1", 1_900_000_000)
    SessionResource.model_validate(shown)
    assert shown["audio"] == {"format": {"type": "audio/pcm", "rate": 24000}}
    assert shown["delegation"] == {"type": "client"} and shown["input"] == []
    media = resource(CalledConfig(model="m", idle_timeout_s=9), "live_1", 1_900_000_000)
    SessionResource.model_validate(media)
    assert "audio" not in media and media["idle_timeout_s"] == 9
