"""Session settings: defaults, merging of partial updates, and errors that name the member."""

from typing import Any

import pytest

from signaling.errors import ProtocolError
from signaling.settings import SemanticVad, ServerVad, SessionSettings


def vad(update: Any) -> dict[str, Any]:
    return {"audio": {"input": {"turn_detection": update}}}


def test_default_is_full_duplex() -> None:
    assert isinstance(SessionSettings().audio.input.turn_detection, SemanticVad)


def test_modes_switch_and_keep_what_is_not_named() -> None:
    settings = SessionSettings().merge({"instructions": "be brief", **vad(None)})
    assert settings.audio.input.turn_detection is None
    settings = settings.merge(vad({"type": "server_vad", "threshold": 0.7}))
    settings = settings.merge(vad({"silence_duration_ms": 700}))
    detection = settings.audio.input.turn_detection
    assert isinstance(detection, ServerVad)
    assert (detection.threshold, detection.silence_duration_ms) == (0.7, 700)
    assert settings.instructions == "be brief"
    settings = settings.merge(vad({"type": "semantic_vad"}))
    assert isinstance(settings.audio.input.turn_detection, SemanticVad)


def test_first_update_of_the_agents_sdk_is_taken() -> None:
    pcm = {"type": "audio/pcm", "rate": 24000}
    settings = SessionSettings().merge(
        {
            "type": "realtime",
            "instructions": "x",
            "model": "gpt-realtime",
            "output_modalities": ["audio"],
            "audio": {
                "input": {
                    "format": pcm,
                    "noise_reduction": None,
                    "transcription": {"model": "gpt-4o-mini-transcribe"},
                    "turn_detection": {"type": "semantic_vad"},
                },
                "output": {"format": pcm, "speed": 1},
            },
            "tools": [],
            "tracing": "auto",
            "something_new": {"a": 1},
        }
    )
    assert settings.model == "gpt-realtime"
    assert settings.audio.output.speed == 1.0
    assert settings.tracing == "auto"


def test_null_resets_to_the_default() -> None:
    settings = SessionSettings().merge({"model": "m", "max_output_tokens": 5})
    settings = settings.merge({"model": None, "max_output_tokens": None})
    assert (settings.model, settings.max_output_tokens) == ("omnicall", "inf")


def test_extensions_are_merged() -> None:
    settings = SessionSettings().merge({"video": {"fps": 2}, "engine": {"temperature": 0.7}})
    settings = settings.merge({"video": {"detail": "high"}, "engine": {"top_k": 20}})
    assert (settings.video.fps, settings.video.detail) == (2.0, "high")
    assert settings.engine == {"temperature": 0.7, "top_k": 20}


@pytest.mark.parametrize(
    ("update", "param", "says"),
    [
        (vad({"type": "server_vad", "threshold": 3}), "turn_detection.threshold", "<= 1.0, got 3"),
        (vad({"type": "none"}), "turn_detection.type", '"semantic_vad"'),
        (vad("server_vad"), "turn_detection", "object"),
        ({"output_modalities": ["smell"]}, "output_modalities.0", '"text", "audio"'),
        ({"output_modalities": []}, "output_modalities", "length"),
        ({"max_output_tokens": 5000}, "max_output_tokens", "1 to 4096"),
        ({"instructions": "x" * 40_000}, "instructions", "32768"),
        ({"audio": {"output": {"speed": "fast"}}}, "audio.output.speed", "float"),
        ({"audio": {"output": {"speed": 2}}}, "audio.output.speed", "1.5"),
        ({"audio": 3}, "audio", "object"),
        ({"tools": [{}] * 200}, "tools", "length"),
        ({"tools": [{"x": "y" * 200_000}]}, "tools", "bytes"),
        ({"video": {"fps": 0}}, "video.fps", ">= 0.1"),
        ({"engine": {"a": "x" * 300}}, "engine", "256"),
        ({"type": "translation"}, "type", '"realtime"'),
    ],
)
def test_invalid_members_are_named(update: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        SessionSettings().merge(update)
    assert (caught.value.param or "").startswith("session.")
    assert param in (caught.value.param or "")
    assert says in caught.value.message, caught.value.message
