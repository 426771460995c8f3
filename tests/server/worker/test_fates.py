"""Nothing that a client of OpenAI's sends is silently ignored.

Walks the types of the `openai` package: each client event is handled or refused, each member of a
session and of a response is in force, told of by its name, or refused by its name.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.realtime import (
    RealtimeClientEvent,
    RealtimeResponseCreateParams,
    RealtimeSessionCreateRequest,
    RealtimeTranscriptionSessionCreateRequest,
)
from pydantic import BaseModel

from engine.ipc import protocol as p
from signaling.realtime.client_events import CLIENT_EVENT_TYPES, OURS
from signaling.session.core import Abilities
from tests.server.worker.talk import Talk

FUNCTION = {"type": "function", "name": "weather", "parameters": {}}
SAMPLES: dict[str, Any] = {
    "type": "realtime",
    "audio.input.format": {"type": "audio/pcmu"},
    "audio.input.noise_reduction": {"type": "near_field"},
    "audio.input.noise_reduction.strength": 0.5,
    "audio.input.noise_reduction.type": "far_field",
    "audio.input.transcription": {"model": "whisper-1"},
    "audio.input.transcription.delay": "low",
    "audio.input.transcription.keywords": ["omnicall"],
    "audio.input.transcription.language": "en",
    "audio.input.transcription.languages": ["en"],
    "audio.input.transcription.model": "whisper-1",
    "audio.input.transcription.prompt": "names",
    "audio.input.turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000},
    "audio.output.format": {"type": "audio/pcma"},
    "audio.output.speed": 1.25,
    "audio.output.voice": "marin",
    "audio.output.voice.id": "voice_1",
    "include": ["item.input_audio_transcription.logprobs"],
    "instructions": "Be brief.",
    "max_output_tokens": 77,
    "model": "gpt-realtime",
    "output_modalities": ["text"],
    "parallel_tool_calls": False,
    "prompt.id": "pmpt_1",
    "prompt.variables": {"a": "b"},
    "prompt.version": "2",
    "reasoning.effort": "low",
    "tool_choice": "required",
    "tools": [FUNCTION],
    "tracing": "auto",
    "tracing.group_id": "g",
    "tracing.metadata": {"a": "b"},
    "tracing.workflow_name": "w",
    "truncation": "disabled",
    "truncation.retention_ratio": 0.5,
    "truncation.type": "retention_ratio",
    "truncation.token_limits.post_instructions": 1000,
    "conversation": "none",
    "input": [],
    "metadata": {"topic": "one"},
}
TRACING = "tracing goes to the vendor's dashboard: SDKs ask for it always, it is shown as null"
IGNORED = {
    "model": "which model serves is settled by then, and shown; SDKs send their default",
    "audio.input.transcription.model": "shown as given: a name for what is there anyway",
    "tracing": TRACING,
    "tracing.group_id": TRACING,
    "tracing.metadata": TRACING,
    "tracing.workflow_name": TRACING,
}
ABILITIES = {
    "rules": Abilities(transcribes=True, honours=frozenset({"speed"})),
    "chat": Abilities(
        tool_modes=("full_duplex", "half_duplex", "turn_based"),
        transcribes=True,
        answers_out_of_band=True,
        honours=frozenset({"speed", "max_output_tokens", "instructions", "tools", "retention"}),
    ),
    "native": Abilities(
        hears_in_units=True,
        context_tokens=8192,
        honours=frozenset({"instructions", "context_policy", "retention"}),
    ),
}


def members(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all members, of an object its own where there is one kind of it."""
    for name, field in model.model_fields.items():
        kinds = [
            kind
            for kind in typing.get_args(field.annotation)
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        inner = list(members(kinds[0], f"{prefix}{name}.")) if len(kinds) == 1 else []
        if not inner or f"{prefix}{name}" in SAMPLES:
            yield prefix + name
        yield from inner


def nested(path: str, value: Any) -> dict[str, Any]:
    """An object with the one member set, and what has to stand beside it."""
    *outer, last = path.split(".")
    made: dict[str, Any] = {last: value}
    if outer[:1] == ["truncation"] and last != "type":
        made |= {} if outer[1:] else {"type": "retention_ratio"}
    for name in reversed(outer):
        made = {name: made}
    return made


def at(shown: Any, path: str) -> Any:
    for name in path.split("."):
        shown = shown.get(name) if isinstance(shown, dict) else None
    return shown


def is_named(text: str, path: str) -> bool:
    """Whether a message names the member, or the object that it lies in."""
    steps = path.split(".")
    return any(".".join(steps[:n]) in text for n in range(1, len(steps) + 1))


@pytest.mark.parametrize("engine", ABILITIES)
@pytest.mark.parametrize("path", list(members(RealtimeSessionCreateRequest)))
def test_each_setting_is_in_force_or_told_of_or_refused(path: str, engine: str) -> None:
    check_setting(Talk(), path, engine)


@pytest.mark.parametrize("path", list(members(RealtimeTranscriptionSessionCreateRequest)))
def test_so_is_each_of_a_session_that_transcribes(path: str) -> None:
    check_setting(Talk(type="transcription"), path, "rules")


def check_setting(talk: Talk, path: str, engine: str) -> None:
    talk.conversation.abilities = ABILITIES[engine]
    value = talk.conversation.settings.type if path == "type" else SAMPLES[path]
    talk.ask({"type": "session.update", "session": nested(path, value)})
    errors = [event["error"]["param"] for event in talk.of("error")]
    told = [event["message"] for event in talk.of("session.warning")]
    if errors:
        assert is_named(errors[0], path) and talk.of("session.updated") == []
    elif not any(is_named(message, path) for message in told) and path not in IGNORED:
        shown = at(talk.one("session.updated")["session"], path)
        if isinstance(value, dict) and isinstance(shown, dict):
            shown = {name: shown.get(name) for name in value}
        assert shown == value


@pytest.mark.parametrize("engine", ABILITIES)
@pytest.mark.parametrize("path", list(members(RealtimeResponseCreateParams)))
def test_each_wish_for_a_response_is_passed_on_or_refused(path: str, engine: str) -> None:
    talk = Talk(tools=[FUNCTION])
    talk.conversation.abilities = ABILITIES[engine]
    wish = nested(path, SAMPLES[path])
    if path in ("conversation", "input"):
        wish |= {"conversation": "none", "output_modalities": ["text"]}
    talk.ask({"type": "response.create", "response": wish})
    if errors := [event["error"]["param"] for event in talk.of("error")]:
        assert is_named(errors[0], f"response.{path}") and talk.sent(p.CreateResponse) == []
        return
    [create] = talk.sent(p.CreateResponse)
    asked = {
        "instructions": create.instructions == "Be brief.",
        "output_modalities": create.modalities == ("text",),
        "max_output_tokens": create.max_output_tokens == 77,
        "tools": create.tools is not None,
        "tool_choice": create.tool_choice == "required",
        "conversation": create.is_out_of_band,
        "input": create.input == (),
        # What comes back is tested elsewhere.
        "metadata": True,
    }
    assert asked[path], f"{path} came to nothing"


def test_each_event_of_a_client_is_known() -> None:
    union = typing.get_args(RealtimeClientEvent)[0]
    kinds = [event.model_fields["type"].annotation for event in typing.get_args(union)]
    named = {typing.get_args(kind)[0] for kind in kinds}
    assert named == set(CLIENT_EVENT_TYPES) - OURS
