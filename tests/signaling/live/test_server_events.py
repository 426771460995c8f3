"""Every server event parses as OpenAI's own type for it, required fields checked strictly."""

import json
from typing import get_args

import pytest

from signaling.errors import ProtocolError
from signaling.live import server_events as wire
from signaling.live.config_reading import resource
from signaling.live.session_config import LiveConfig
from tests.openai_types import live_events

SESSION = resource(LiveConfig(model="m"), "live_1", 1_900_000_000)
USAGE = wire.LiveUsage(seconds=3.5, active_seconds=3, paused_seconds=0)

EVENTS: list[wire.LiveServerEvent] = [
    wire.Info(code="c", message="m"),
    wire.live_error(ProtocolError("bad", param="p"), "e1"),
    wire.live_error(ProtocolError("bad")),
    wire.LiveStarted(session=SESSION, client_event_id="e"),
    wire.LiveUpdated(session=SESSION),
    wire.UsageUpdated(usage=USAGE, context_window=wire.ContextWindow(usage_ratio=0.5)),
    wire.UsageUpdated(usage=wire.LiveUsage(seconds=1)),
    wire.LiveClosed(reason="close_requested", session=SESSION, usage=USAGE),
    wire.LivePaused(),
    wire.LiveResumed(),
    wire.OutputAudio(delta="AAA="),
    wire.OutputAudio(delta="AAA=", start_ms=0, end_ms=100),
    wire.ReflectedInput(audio="AAA="),
    wire.InputWords(delta=" hi", start_ms=0, end_ms=200),
    wire.OutputWords(delta=" hi", start_ms=0, end_ms=200),
    wire.InstructionsAppended(start_ms=1, end_ms=1),
    wire.ThinkingAppended(start_ms=1, end_ms=2),
    wire.CommentaryAppended(start_ms=1, end_ms=2),
    wire.Muted(),
    wire.Unmuted(client_event_id="e"),
    wire.FixturePlaying(),
    wire.FixturePlayed(),
    wire.DelegationCreatedEvent(
        offset_ms=3, delegation=wire.DelegationInfo(id="item_1", target="client")
    ),
    wire.BackendEvent(event={"type": "response.created"}, delegation_id="item_1"),
]


@pytest.mark.parametrize("event", EVENTS, ids=wire.event_type)
def test_the_package_takes_it(event: wire.LiveServerEvent) -> None:
    raw = json.loads(wire.encode(event))
    parsed = live_events().validate_python(raw)
    assert parsed.type == raw["type"] == wire.event_type(event)
    assert set(raw) <= set(type(parsed).model_fields), "a member that nobody knows"


def test_every_event_is_tried() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(wire.LiveServerEvent))


def test_events_of_sound_have_no_name() -> None:
    assert "event_id" not in wire.encode(wire.OutputAudio(delta="AAA="))
    assert json.loads(wire.encode(wire.Muted()))["event_id"].startswith("event_")


def test_an_error_names_the_command_twice() -> None:
    raw = json.loads(wire.encode(wire.live_error(ProtocolError("bad", event_id="e1"))))
    assert raw["client_event_id"] == raw["error"]["client_event_id"] == "e1"
