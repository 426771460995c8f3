"""What is set and has no effect: refused by name, or told of once and not shown as in force."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.ipc import protocol as p
from server.worker.in_force import without_effect
from signaling.session.core import Abilities
from signaling.settings import SessionSettings
from tests.server.worker.talk import SESSION, Talk

FUNCTION = {"type": "function", "name": "weather", "parameters": {}}
ALL = Abilities(
    tool_modes=("full_duplex", "half_duplex", "turn_based"),
    transcribes=True,
    answers_out_of_band=True,
    honours=frozenset({"speed", "max_output_tokens", "tools", "after"}),
)


def told(talk: Talk) -> list[str]:
    return [event["message"] for event in talk.of("session.warning")]


def update(talk: Talk, session: dict[str, Any]) -> None:
    talk.ask({"type": "session.update", "event_id": "e1", "session": session})


def test_defaults_are_all_honoured() -> None:
    assert without_effect(SessionSettings(), Abilities()) == []


@pytest.mark.parametrize(
    ("session", "name"),
    [
        ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, *(
            "audio.input.noise_reduction",)),
        ({"audio": {"input": {"transcription": {"model": "m"}}}}, "audio.input.transcription"),
        ({"audio": {"output": {"speed": 1.2}}}, "audio.output.speed"),
        ({"audio": {"output": {"voice": "marin"}}}, "audio.output.voice"),
        ({"instructions": "Be kind."}, "instructions"),
        ({"include": ["item.input_audio_transcription.logprobs"]}, "include"),
        ({"max_output_tokens": 100}, "max_output_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_length": "long"}, "response_length"),
        ({"engine": {"temperature": 0.5}}, "engine.temperature"),
        ({"video": {"fps": 5}}, "video.fps"),
    ],
)  # fmt: skip
def test_setting_without_effect_is_told_once_by_its_name(
    session: dict[str, Any], name: str
) -> None:
    talk = Talk()
    update(talk, session)
    assert told(talk) == [f"session.{name} is accepted but has no effect here."]
    update(talk, session)
    update(talk, {"audio": {"input": {"turn_detection": None}}})
    assert len(told(talk)) == 1 and talk.of("error") == []


def test_engines_word_for_the_same_setting_is_not_told_beside_it() -> None:
    talk = Talk()
    update(talk, {"instructions": "Be kind."})
    for name in ("instructions", "temperature", "max_image_slices"):
        told_so = f"{name}: has no effect with this engine"
        talk.hear(p.SessionWarning(SESSION, "unused_setting", told_so))
    assert told(talk) == [
        "session.instructions is accepted but has no effect here.",
        "Max_image_slices: has no effect with this engine.",
    ]


def test_update_shows_what_is_in_force() -> None:
    talk = Talk()
    audio = {
        "input": {"noise_reduction": {"type": "far_field"}, "transcription": {"model": "m"}},
        "output": {"speed": 1.5},
    }
    update(
        talk,
        {
            "audio": audio,
            "tracing": "auto",
            "max_output_tokens": 7,
            "model": "gpt-realtime",
        },
    )
    shown = talk.one("session.updated")["session"]
    assert shown["audio"]["input"]["noise_reduction"] is None
    assert shown["audio"]["input"]["transcription"] is None
    assert shown["audio"]["output"]["speed"] == 1.0
    assert (shown["tracing"], shown["truncation"]) == (None, "auto")
    assert (shown["max_output_tokens"], shown["model"]) == ("inf", "omnicall")


def test_engine_that_can_has_it_in_force() -> None:
    talk = Talk()
    talk.conversation.abilities = ALL
    update(
        talk,
        {
            "audio": {"input": {"transcription": {"model": "m"}}, "output": {"speed": 1.5}},
            "max_output_tokens": 7,
            "tools": [FUNCTION],
            "tool_choice": {"type": "function", "name": "weather"},
        },
    )
    shown = talk.one("session.updated")["session"]
    assert shown["audio"]["input"]["transcription"] is not None
    assert shown["audio"]["output"]["speed"] == 1.5 and shown["max_output_tokens"] == 7
    assert shown["tools"] == [FUNCTION] and shown["tool_choice"]["name"] == "weather"
    assert told(talk) == []
    config = talk.sent(p.UpdateSession)[-1].config
    assert [tool.name for tool in config.tools] == ["weather"]
    assert (config.tool_choice, config.tool_name) == ("required", "weather")


@pytest.mark.parametrize(
    ("session", "param", "code"),
    [
        ({"tools": [FUNCTION]}, "session.tools", "unsupported_value"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "session.tools.0.type", *(
            "unsupported_value",)),
        ({"tools": [{"type": "function"}]}, "session.tools.0.name", "invalid_value"),
        ({"tool_choice": "perhaps"}, "session.tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "mcp"}}, "session.tool_choice.type", "unsupported_value"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "session.tool_choice.name", *(
            "invalid_value",)),
        ({"truncation": {"type": "retention_ratio", "retention_ratio": 1.5}}, *(
            "session.truncation.retention_ratio", "invalid_value")),
        ({"truncation": {"type": "retention_ratio"}}, *(
            "session.truncation.retention_ratio", "missing_required_parameter")),
        ({"truncation": {"type": "summary", "retention_ratio": 0.5}}, *(
            "session.truncation.type", "invalid_value")),
        ({"truncation": "never"}, "session.truncation", "invalid_value"),
        ({"prompt": {"id": "pmpt_1"}}, "session.prompt", "unsupported_value"),
        ({"output_modalities": ["text", "audio"]}, "session.output_modalities", "invalid_value"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_an_error_that_changes_nothing(
    session: dict[str, Any], param: str, code: str
) -> None:
    talk = Talk()
    update(talk, session | {"instructions": "new"})
    error = talk.one("error")["error"]
    assert (error["param"], error["code"], error["event_id"]) == (param, code, "e1")
    assert talk.types == ["error"] and talk.to_engine == []
    assert talk.conversation.settings.instructions == ""


RETENTION = {"type": "retention_ratio", "retention_ratio": 0.5}


def test_retention_ratio_goes_to_the_engine_and_is_shown() -> None:
    talk = Talk()
    talk.conversation.abilities = replace(ALL, honours=frozenset({"retention"}))
    asked = RETENTION | {"token_limits": {"post_instructions": 1000}}
    update(talk, {"truncation": asked})
    assert talk.one("session.updated")["session"]["truncation"] == asked
    config = talk.sent(p.UpdateSession)[-1].config
    assert (config.retention, config.context_policy) == (p.Retention(0.5, 1000), "slide")
    update(talk, {"truncation": RETENTION})
    assert talk.sent(p.UpdateSession)[-1].config.retention == p.Retention(0.5)
    update(talk, {"truncation": None})
    assert talk.sent(p.UpdateSession)[-1].config.retention is None


@pytest.mark.parametrize("truncation", ["disabled", RETENTION], ids=str)
def test_truncation_without_effect_is_told_and_not_shown(truncation: Any) -> None:
    talk = Talk()
    talk.conversation.abilities = replace(ALL, honours=frozenset())
    update(talk, {"truncation": truncation})
    assert talk.one("session.updated")["session"]["truncation"] == "auto"
    assert told(talk) == ["session.truncation is accepted but has no effect here."]


def test_limit_beyond_what_the_model_remembers_is_refused() -> None:
    talk = Talk()
    talk.conversation.abilities = replace(ALL, context_tokens=8192)
    update(talk, {"truncation": RETENTION | {"token_limits": {"post_instructions": 8193}}})
    error = talk.one("error")["error"]
    assert error["param"] == "session.truncation.token_limits.post_instructions"
    assert "8192" in error["message"] and talk.to_engine == []


def test_no_tools_may_always_be_asked_for() -> None:
    talk = Talk()
    update(talk, {"tools": [], "tool_choice": "auto"})
    assert talk.types == ["session.updated"]


def test_member_that_no_setting_has_is_told_by_its_name() -> None:
    talk = Talk()
    update(
        talk,
        {
            "shiny": 1,
            "audio": {"input": {"echo": True, "format": {"type": "audio/pcmu", "rate": 8000}}},
            "id": "sess_1",
            "reasoning": {"effort": "low"},
        },
    )
    assert told(talk) == [
        "session.shiny is not known here.",
        "session.audio.input.echo is not known here.",
        "session.reasoning is not known here.",
    ]


WRITES = Abilities(transcribes=True, languages=("en-gb",))


def written(talk: Talk) -> list[str]:
    return [kind.rpartition(".")[2] for kind in talk.types if "input_audio_transcription" in kind]


def test_null_switches_transcripts_off_and_keeps_the_items() -> None:
    talk = Talk()
    talk.conversation.abilities = WRITES
    update(talk, {"audio": {"input": {"transcription": None}}})
    assert talk.one("session.updated")["session"]["audio"]["input"]["transcription"] is None
    assert not talk.sent(p.UpdateSession)[-1].config.transcribe
    talk.hear(
        p.InputTranscript(SESSION, 1, "he", final=False),
        p.InputTranscript(SESSION, 1, "hello", final=True),
        p.InputTranscript(SESSION, 2, "", True, "not wanted", code="not_transcribed"),
    )
    assert written(talk) == []
    items = talk.of("conversation.item.added")
    assert [item["item"]["content"][0].get("transcript") for item in items] == [None, None]
    update(talk, {"audio": {"input": {"transcription": {}}}})
    talk.hear(p.InputTranscript(SESSION, 3, "again", final=True))
    assert written(talk) == ["completed"] and talk.sent(p.UpdateSession)[-1].config.transcribe


def test_transcripts_come_unless_they_are_switched_off_and_native_engines_show_none() -> None:
    talk = Talk()
    update(talk, {"instructions": ""})
    assert talk.one("session.updated")["session"]["audio"]["input"]["transcription"] is None
    assert told(talk) == []


def test_who_writes_down_has_a_name_for_clients_that_take_no_null() -> None:
    talk = Talk()
    talk.conversation.abilities = WRITES
    for given, told_name in (({}, "default"), ({"model": "whisper-1"}, "whisper-1")):
        update(talk, {"audio": {"input": {"transcription": given}}})
        shown = talk.of("session.updated")[-1]["session"]["audio"]["input"]["transcription"]
        assert shown == {"model": told_name, "language": None, "prompt": None}
    assert told(talk) == []


@pytest.mark.parametrize("language", ["en", "en-US", "EN_us"])
def test_language_that_the_engine_knows_is_in_force(language: str) -> None:
    talk = Talk()
    talk.conversation.abilities = WRITES
    update(talk, {"audio": {"input": {"transcription": {"language": language}}}})
    shown = talk.one("session.updated")["session"]["audio"]["input"]["transcription"]
    assert shown["language"] == language and told(talk) == []
    assert talk.sent(p.UpdateSession)[-1].config.transcribe_language == language


def test_language_that_the_engine_does_not_know_is_refused_by_name() -> None:
    talk = Talk()
    talk.conversation.abilities = WRITES
    update(talk, {"audio": {"input": {"transcription": {"language": "de"}}}})
    error = talk.one("error")["error"]
    assert error["param"] == "session.audio.input.transcription.language"
    assert "en-gb" in error["message"] and talk.types == ["error"]


def test_language_asked_for_before_the_engine_was_known_is_told_of_and_not_shown() -> None:
    talk = Talk(audio={"input": {"transcription": {"language": "de"}}})
    talk.conversation.abilities = WRITES
    talk.conversation.greet(talk.door)
    shown = talk.one("session.created")["session"]["audio"]["input"]["transcription"]
    assert shown["language"] is None
    [message] = told(talk)
    assert message.startswith("session.audio.input.transcription.language ")
    update(talk, {"instructions": ""})
    assert talk.of("error") == []


def test_unknown_member_given_at_the_start_is_told_like_one_of_an_update() -> None:
    talk = Talk(shiny=1, unknown=["x"], audio={"input": {"echo": True}})
    talk.conversation.greet(talk.door)
    assert "unknown" not in talk.one("session.created")["session"]
    names = ["session.shiny", "session.unknown", "session.audio.input.echo"]
    assert told(talk) == [f"{name} is not known here." for name in names]
    update(talk, {"shiny": 2})
    assert len(told(talk)) == 3
