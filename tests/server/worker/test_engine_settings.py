"""From the session object to the engine's configuration: modes, bounds, and nothing it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.ipc.protocol import (
    Sampling,
    SessionConfig,
    ToEngine,
    TurnDetection,
    UpdateSession,
)
from server.worker.engine_settings import engine_config, mode_of
from signaling.errors import ProtocolError
from signaling.settings import SessionSettings


def settings(**update: Any) -> SessionSettings:
    return SessionSettings().merge(update)


def turns(detection: Any) -> SessionSettings:
    return settings(audio={"input": {"turn_detection": detection}})


def test_default_is_full_duplex_with_sound() -> None:
    config = engine_config(SessionSettings())
    assert config.mode == "full_duplex" and config.modalities == ("audio",)
    assert config.voice == "" and config.turn_detection.silence_duration_ms == 320


@pytest.mark.parametrize(
    ("detection", "mode", "answers"),
    [
        ({"type": "semantic_vad"}, "full_duplex", True),
        ({"type": "semantic_vad", "create_response": False}, "full_duplex", False),
        ({"type": "server_vad"}, "half_duplex", True),
        (None, "turn_based", False),
    ],
)
def test_turn_detection_is_the_mode(detection: Any, mode: str, answers: bool) -> None:
    config = engine_config(turns(detection))
    assert config.mode == mode == mode_of(turns(detection))
    assert config.turn_detection.create_response is answers


def test_eagerness_is_the_silence_that_ends_a_turn() -> None:
    waits = [
        engine_config(turns({"type": "semantic_vad", "eagerness": e})).turn_detection
        for e in ("low", "medium", "high")
    ]
    assert (
        waits[0].silence_duration_ms > waits[1].silence_duration_ms > (waits[2].silence_duration_ms)
    )


def test_server_vad_settings_reach_the_engine() -> None:
    detection = engine_config(
        turns(
            {
                "type": "server_vad",
                "threshold": 0.7,
                "prefix_padding_ms": 100,
                "silence_duration_ms": 600,
                "interrupt_response": False,
            }
        )
    ).turn_detection
    assert (detection.threshold, detection.prefix_padding_ms) == (0.7, 100)
    assert detection.silence_duration_ms == 600 and not detection.interrupt_response


def test_other_settings_reach_the_engine() -> None:
    config = engine_config(
        settings(
            instructions="be brief",
            output_modalities=["text"],
            max_output_tokens=77,
            audio={"output": {"voice": "en-gb", "speed": 1.25}},
            video={"detail": "high"},
            engine={"style": "calm", "level": 3},
        )
    )
    assert config.instructions == "be brief" and config.modalities == ("text",)
    assert config.sampling.max_output_tokens == 77
    assert (config.voice, config.speed, config.max_image_slices) == ("en-gb", 1.25, 2)
    assert config.options == {"style": "calm", "level": 3}


def test_choice_of_words_can_be_set_and_what_is_out_of_bounds_is_left_to_be_told_of() -> None:
    given = {"temperature": 0.7, "length_penalty": 9.0, "top_k": 20, "style": "calm"}
    config = engine_config(settings(engine=given, max_output_tokens=77))
    assert config.sampling == Sampling(temperature=0.7, top_k=20, max_output_tokens=77)
    assert config.options == {"length_penalty": 9.0, "style": "calm"}


def test_voice_is_named_by_itself_or_by_its_id_and_default_is_the_engines_own() -> None:
    for voice, name in (("default", ""), ({"id": "voice_123"}, "voice_123")):
        assert engine_config(settings(audio={"output": {"voice": voice}})).voice == name


EXTREMES: list[dict[str, Any]] = [
    {"instructions": "é" * 32 * 1024},
    {"audio": {"output": {"voice": "v" * 256}}},
    {"audio": {"output": {"speed": 0.25}}},
    {"audio": {"output": {"speed": 1.5}}},
    {"output_modalities": ["text"]},
    {"max_output_tokens": 4096},
    {"max_output_tokens": 1},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 1}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "prefix_padding_ms": 5000}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 50}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 10000}}}},
    {"engine": {"x" * 256: "y" * 256, "flag": True, "float": -1.5, "int": -(2**63)}},
    {"engine": {"largest": 2**63 - 1}},
    {"engine": {"astronomic": 2**70}},
    {"engine": {f"option{n}": n for n in range(32)}},
    {"engine": {"temperature": -1.0, "top_p": "all", "seed": -(2**63), "greedy": 2}},
    {"video": {"detail": "auto", "fps": 10}},
]


@pytest.mark.parametrize("update", EXTREMES, ids=lambda update: str(update)[:50])
def test_what_a_client_may_set_is_never_refused_by_the_engine(update: dict[str, Any]) -> None:
    """An engine refuses the link of a media worker that sends it a message out of bounds: all
    calls of that worker would end for one client's setting."""
    try:
        accepted = SessionSettings().merge(update)
    except ProtocolError as error:
        assert error.param is not None and error.param.startswith("session.")
        return
    message = UpdateSession("call", engine_config(accepted))
    wire = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(wire, type=ToEngine) == message


def test_defaults_of_both_sides_agree() -> None:
    # Patience is not of an utterance's end as such but of `semantic_vad`.
    patient = TurnDetection(patience=3.0)
    assert engine_config(SessionSettings()) == SessionConfig(turn_detection=patient)
    plain = engine_config(turns({"type": "server_vad"}))
    assert plain.turn_detection.patience == 1.0


@pytest.mark.parametrize(
    ("length", "engine", "penalty"),
    [
        (None, {}, None),
        ("short", {}, 1.0),
        ("balanced", {}, 1.1),
        ("long", {}, 1.3),
        ("long", {"length_penalty": 1.2}, 1.2),
    ],
)
def test_length_in_a_word_is_a_number_unless_one_is_given(
    length: str | None, engine: dict[str, float], penalty: float | None
) -> None:
    settings = SessionSettings().merge({"response_length": length, "engine": engine})
    assert engine_config(settings).sampling.length_penalty == penalty
