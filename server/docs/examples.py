"""An example of each message, made from its struct and from what its members are called. Front."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect as shapes

from signaling.live.config_reading import resource as live_session
from signaling.live.session_config import LiveConfig
from signaling.realtime.server_events import duration_usage
from signaling.settings import SessionSettings

EXPIRES_AT = 1_900_000_000
AUDIO = "AAAAAAAA"
_CALLED = {"city": "Rome"}
_ARGUMENTS = msgspec.json.encode(_CALLED).decode()
_REALTIME = SessionSettings(instructions="Be brief.").to_session("rtc_8Qf", EXPIRES_AT)
_LIVE = live_session(LiveConfig(model="omnicall", instructions="Be brief."), "rtc_8Qf", EXPIRES_AT)

NAMED: dict[str, Any] = {
    "event_id": "event_1",
    "id": "item_4Tc",
    "item_id": "item_4Tc",
    "previous_item_id": "item_3Rb",
    "response_id": "resp_5Kd",
    "call_id": "call_6Me",
    "session_id": "rtc_8Qf",
    "client_event_id": "mine-1",
    "name": "get_weather",
    "role": "user",
    "text": "It is half past nine.",
    "transcript": "What time is it?",
    "content": "The order was sent this morning.",
    "audio": AUDIO,
    "arguments": _ARGUMENTS,
    "output": '{"sky": "clear"}',
    "delta": "It is ",
    "message": "So that a person understands it.",
    "code": "unused_setting",
    "reason": "hangup",
    "position": 2,
    "estimated_wait_s": 30.0,
    "eta_s": 30.0,
    "audio_start_ms": 1200,
    "audio_end_ms": 2900,
    "start_ms": 1200,
    "end_ms": 2900,
    "offset_ms": 3000,
    "seconds": 12.5,
    "usage_ratio": 0.25,
    "input_tokens": 310,
    "output_tokens": 42,
    "total_tokens": 352,
    "delegation_id": None,
    "metrics": {
        "unit": 12,
        "prefill_ms": 38.5,
        "kv_tokens": 2190,
        "context_tokens": 8192,
        "ahead_ms": 640,
    },
}
"""By the name of the member, whatever message it is in."""
SPECIAL: dict[str, dict[str, Any]] = {
    "SessionUpdate": {
        "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    },
    "SessionCreated": {"session": _REALTIME},
    "SessionUpdated": {"session": _REALTIME},
    "SessionStart": {"session": {"model": "omnicall", "instructions": "Be brief."}},
    "DelegationUpdate": {"session": {"delegation": {"type": "client"}}},
    "ForceListening": {"on": True},
    "MuteInput": {"on": True},
    "ReportStats": {"figures": {"rtt_ms": 38.0, "concealed_pct": 0.4, "in_buffer_ms": 60.0}},
    "LiveForceListening": {"on": True},
    "PausedEvent": {"slot_kept_s": 60.0},
    "LiveStarted": {"session": _LIVE},
    "LiveUpdated": {"session": _LIVE},
    "LiveClosed": {"session": _LIVE, "reason": "close_requested"},
    "DuplexClosed": {"reason": "stopped"},
    "ErrorDetail": {"code": "item_not_found", "param": "item_id", "event_id": "mine-1"},
    "ContentPartAdded": {"part": {"type": "audio", "transcript": ""}},
    "ContentPartDone": {"part": {"type": "audio", "transcript": "It is half past nine."}},
    "WirePart": {"type": "input_audio", "transcript": "What time is it?"},
    "RawPart": {"type": "input_text", "text": "What time is it?"},
    "WireMessage": {"status": "completed", "content": [{"type": "input_audio"}]},
    "Response": {"id": "resp_5Kd", "status": "completed"},
    "ResponseDoneEvent": {
        "response": {
            "id": "resp_5Kd",
            "status": "completed",
            "output": [
                {
                    "type": "message",
                    "id": "item_4Tc",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_audio", "transcript": "It is half past nine."}],
                }
            ],
            "usage": {"total_tokens": 352, "input_tokens": 310, "output_tokens": 42},
        }
    },
    "ResponseCreated": {"response": {"id": "resp_5Kd", "status": "in_progress"}},
    "SessionQueued": {"eta_s": 30.0},
    "WaitBegan": {"estimated_wait_s": 30.0},
    "LiveErrorDetail": {"type": "invalid_request_error", "code": "invalid_value"},
    "ResponseCreate": {"response": {"instructions": "Answer in one word."}},
    "ConversationObject": {"id": "conv_2Pa"},
    "TranscriptionCompleted": {"usage": duration_usage(1.7)},
    "TranscriptionFailed": {"error": {"message": "Not written down.", "code": "not_transcribed"}},
    "OutputAudioDelta": {"delta": AUDIO},
    "OutputAudio": {"delta": AUDIO},
    "AudioTranscriptDone": {"transcript": "It is half past nine."},
    "BackendItem": {
        "item": {"type": "function_call_output", "call_id": "call_6Me", "output": "{}"}
    },
    "BackendEvent": {"event": {"type": "response.output_text.delta", "delta": "It is "}},
    "FixturePlay": {"audio": AUDIO},
    "DelegationInfo": {"id": "item_7Nf", "target": "client"},
    "UnitAppend": {"input": {"audio": AUDIO, "force_listen": False}},
    "DuplexWords": {"text": "It is ", "end_of_turn": False},
    "DuplexFault": {"code": "invalid_audio", "type": "client_error"},
    "InitPayload": {"system_prompt": "Be brief.", "config": {"temperature": 0.7}},
    "SessionInit": {"payload": {"system_prompt": "Be brief.", "config": {"temperature": 0.7}}},
    "DemoSession": {"instructions": "Be brief."},
    "InputWords": {"delta": "What time "},
    "SessionWarningEvent": {"message": "session.video.fps is accepted but has no effect here."},
    "SessionEndedEvent": {"message": "The call was hung up."},
}
"""By the struct: members that mean something else there, or that show what it is for."""


def example_of(struct: type[Any], tag: str | None = None) -> dict[str, Any]:
    """A message of this struct, with its type, as JSON has it; what is optional is left out,
    unless `SPECIAL` names it or the server always sends it.
    """
    info = shapes.type_info(struct)
    assert isinstance(info, shapes.StructType)
    special = SPECIAL.get(struct.__name__, {})
    name = tag or info.tag
    made: dict[str, Any] = {} if name is None else {info.tag_field or "type": name}
    for field in info.fields:
        key = field.encode_name
        if key in special:
            made[key] = special[key]
        elif key in made:
            continue
        elif field.default_factory is not msgspec.NODEFAULT and key in NAMED:
            made[key] = NAMED[key]
        elif field.required and field.default is msgspec.NODEFAULT and not _is_unset(struct, key):
            made[key] = _value(key, field.type)
    if tag is None and info.tag is not None:
        # Of the server: with all that it sends besides.
        sent = msgspec.to_builtins(msgspec.convert(made, struct))
        assert isinstance(sent, dict)
        return sent
    return made


def _is_unset(struct: type[Any], key: str) -> bool:
    defaults = dict(
        zip(reversed(struct.__struct_fields__), reversed(struct.__struct_defaults__), strict=False)
    )
    return defaults.get(key) is msgspec.UNSET


def _value(name: str, shape: shapes.Type) -> Any:
    match shape:
        case shapes.Metadata():
            return _value(name, shape.type)
        case shapes.UnionType():
            return _value(name, shape.types[0])
        case shapes.LiteralType():
            return NAMED[name] if NAMED.get(name) in shape.values else shape.values[0]
        case shapes.StructType():
            return example_of(shape.cls)
        case shapes.CollectionType():
            return [_value(name, shape.item_type)]
        case shapes.DictType():
            return NAMED.get(name, {})
    return NAMED.get(name, _SIMPLE.get(type(shape)))


_SIMPLE: dict[type[shapes.Type], Any] = {
    shapes.StrType: "text",
    shapes.IntType: 1,
    shapes.FloatType: 1.0,
    shapes.BoolType: True,
}
