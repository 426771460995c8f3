"""Every server event parses as OpenAI's own type for it, required fields checked strictly."""

import json
from typing import Any

import pytest

from signaling.errors import ProtocolError
from signaling.realtime import extension_events as ours
from signaling.realtime import server_events as ev
from signaling.realtime.server_events import error_event
from signaling.settings import SessionSettings
from tests.openai_types import realtime_events

USER = ev.WireMessage(
    id="item_1",
    role="user",
    status="completed",
    content=(
        ev.WirePart(type="input_text", text="hi"),
        ev.WirePart(type="input_audio", transcript=None),
    ),
)
ASSISTANT = ev.WireMessage(
    id="item_2",
    role="assistant",
    status="in_progress",
    content=(ev.WirePart(type="output_audio", transcript="hello"),),
)
CALL = ev.WireFunctionCall(
    id="item_3", call_id="call_1", name="f", arguments="{}", status="completed"
)
OUTPUT = ev.WireFunctionOutput(id="item_4", call_id="call_1", output="4")
SESSION = SessionSettings().to_session("sess_1", expires_at=1_900_000_000)
VAD = SessionSettings().merge(
    {
        "audio": {
            "input": {
                "turn_detection": {"type": "server_vad"},
                "transcription": {"model": "m"},
                "noise_reduction": {"type": "near_field"},
            }
        },
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
    }
)
CONTENT: dict[str, Any] = {"response_id": "resp_1", "item_id": "item_2"}
DONE = ev.Response(
    id="resp_1",
    status="cancelled",
    output=(ASSISTANT, CALL),
    status_details={"type": "cancelled", "reason": "turn_detected"},
    usage={"total_tokens": 3, "input_tokens": 1, "output_tokens": 2},
)

EVENTS = [
    error_event(ProtocolError("bad", code="c", param="p", event_id="e")),
    ev.SessionCreated(session=SESSION),
    ev.SessionUpdated(session=VAD.to_session("sess_1")),
    ev.SpeechStartedEvent(item_id="item_1", audio_start_ms=10),
    ev.SpeechStoppedEvent(item_id="item_1", audio_end_ms=20),
    ev.InputTimedOut(item_id="item_1", audio_start_ms=10, audio_end_ms=6010),
    ev.ConversationCreated(conversation=ev.ConversationObject(id="conv_1")),
    ev.InputCommitted(item_id="item_1"),
    ev.InputCommitted(item_id="item_1", previous_item_id="item_0"),
    ev.InputCleared(),
    ev.ItemAddedEvent(item=USER),
    ev.ItemAddedEvent(item=OUTPUT, previous_item_id="item_3"),
    ev.ItemDone(item=ASSISTANT, previous_item_id="item_1"),
    ev.ItemRetrieved(item=USER),
    ev.ItemDeleted(item_id="item_1"),
    ev.ItemTruncated(item_id="item_2", audio_end_ms=1500),
    ev.TranscriptionDelta(item_id="item_1", delta="h"),
    ev.TranscriptionCompleted(
        item_id="item_1", transcript="hi", usage=ev.duration_usage(seconds=1.5)
    ),
    ev.TranscriptionFailed(item_id="item_1", error={"message": "no", "code": "x"}),
    ev.ResponseCreated(response=ev.Response(id="resp_1", status="in_progress")),
    ev.RateLimitsUpdated(),
    ev.OutputItemAdded(response_id="resp_1", item=ASSISTANT),
    ev.OutputItemDone(response_id="resp_1", item=CALL),
    ev.ContentPartAdded(**CONTENT, part=ev.WirePart(type="audio", transcript="")),
    ev.ContentPartDone(**CONTENT, part=ev.WirePart(type="text", text="hello")),
    ev.AudioTranscriptDelta(**CONTENT, delta="hel"),
    ev.AudioTranscriptDone(**CONTENT, transcript="hello"),
    ev.OutputAudioDelta(**CONTENT, delta="AAAA"),
    ev.OutputAudioDone(**CONTENT),
    ev.FunctionArgumentsDelta(response_id="resp_1", item_id="item_3", call_id="c", delta="{"),
    ev.FunctionArgumentsDone(
        response_id="resp_1", item_id="item_3", call_id="c", name="f", arguments="{}"
    ),
    ev.OutputTextDelta(**CONTENT, delta="hel"),
    ev.OutputTextDone(**CONTENT, text="hello"),
    ev.ResponseDoneEvent(response=DONE),
    ev.OutputBufferStarted(response_id="resp_1"),
    ev.OutputBufferStopped(response_id="resp_1"),
    ev.OutputBufferCleared(response_id="resp_1"),
]
EXTENSIONS = [
    ours.SessionQueued(position=2, eta_s=12.5),
    ours.SessionWarningEvent(code="context_high", message="m"),
    ours.SessionEndedEvent(reason="time_limit", message="m"),
    ours.Metrics(metrics={"unit_ms": 31.5}),
    ours.ForceListenUpdated(on=True),
    ours.MutedEvent(on=False),
    ours.PausedEvent(slot_kept_s=60.0),
    ours.ResumedEvent(kept="words"),
    ours.SessionContinued(items=(), responses=()),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_event_is_what_the_openai_sdk_expects(event: Any) -> None:
    text = ev.encode(event)
    parsed = realtime_events().validate_json(text, strict=True)
    assert parsed.type == json.loads(text)["type"]
    # The union falls back to nothing: a wrong field would have raised, a wrong name an extra.
    assert not (parsed.model_extra or {}), parsed.model_extra
    assert parsed.event_id.startswith("event_")


def test_every_event_struct_is_covered() -> None:
    covered = {type(event) for event in EVENTS + EXTENSIONS}
    defined = {
        value
        for value in (*vars(ev).values(), *vars(ours).values())
        if isinstance(value, type)
        and issubclass(value, ev.ServerEvent)
        and value is not ev.ServerEvent
        and not value.__name__.startswith("_")
    }
    assert covered == defined


@pytest.mark.parametrize("event", EXTENSIONS, ids=lambda e: type(e).__name__)
def test_extension_has_type_and_event_id(event: Any) -> None:
    decoded = json.loads(ev.encode(event))
    assert "." in decoded["type"] or decoded["type"] == "metrics"
    assert decoded["event_id"].startswith("event_")


def test_event_ids_are_unique() -> None:
    assert len({ev.InputCleared().event_id for _ in range(1000)}) == 1000


def test_the_session_object_is_complete() -> None:
    assert SESSION["object"] == "realtime.session"
    assert SESSION["type"] == "realtime"
    assert SESSION["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"
    assert SESSION["expires_at"] == 1_900_000_000
