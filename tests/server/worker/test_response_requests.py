"""Asking for responses: what comes back, what is refused by name, what comes of it in the end."""

from __future__ import annotations

from typing import Any

import pytest

from engine.ipc import protocol as p
from signaling.session.core import Abilities
from tests.server.worker.talk import SESSION, Talk


def ask(talk: Talk, event_id: str = "e1", **options: Any) -> None:
    talk.ask({"type": "response.create", "event_id": event_id, "response": options})


def test_response_names_its_voice_by_a_word_also_where_an_id_was_given() -> None:
    talk = Talk(audio={"output": {"voice": {"id": "voice_1"}}})
    talk.hear(p.ResponseStarted(SESSION, 1, "speech", 1))
    told = talk.one("response.created")["response"]["audio"]["output"]
    assert told["voice"] == "voice_1"


def test_metadata_comes_back_with_the_response_it_was_given_for() -> None:
    talk = Talk()
    ask(talk, metadata={"topic": "one"})
    ask(talk, metadata={"topic": "two"})
    first, second = talk.sent(p.CreateResponse)
    talk.hear(p.ResponseStarted(SESSION, 1, "speech"), p.ResponseDone(SESSION, 1, "cancelled"))
    talk.hear(p.ResponseStarted(SESSION, 2, "request", request=second.request))
    talk.hear(p.ResponseDone(SESSION, 2, "cancelled"))
    talk.hear(p.ResponseStarted(SESSION, 3, "request", request=first.request))
    told = [event["response"]["metadata"] for event in talk.of("response.created")]
    assert told == [None, {"topic": "two"}, {"topic": "one"}]
    assert talk.of("response.done")[1]["response"]["metadata"] == {"topic": "two"}


@pytest.mark.parametrize("finished", [False, True])
def test_asking_while_a_response_is_active_is_an_error_and_does_no_harm(finished: bool) -> None:
    talk = Talk()
    talk.answer(1, {0: "long"}, 1000, last=finished)
    talk.play(100)
    active = talk.one("response.created")["response"]["id"]
    talk.to_engine.clear()
    ask(talk)
    error = talk.one("error")["error"]
    assert error["code"] == "conversation_already_has_active_response"
    assert active in error["message"] and error["event_id"] == "e1"
    assert talk.to_engine == [] and talk.of("response.done") == []


@pytest.mark.parametrize(
    ("hears_in_units", "detection", "is_taken"),
    [
        (True, {"type": "semantic_vad"}, True),
        (True, {"type": "server_vad"}, False),
        (False, {"type": "semantic_vad"}, False),
    ],
)
def test_what_is_asked_while_a_model_in_full_duplex_speaks_by_itself_comes_behind_that(
    hears_in_units: bool, detection: dict[str, str], is_taken: bool
) -> None:
    talk = Talk(audio={"input": {"turn_detection": detection}})
    talk.conversation.abilities = Abilities(
        hears_in_units=hears_in_units, tool_modes=("full_duplex",)
    )
    talk.answer(1, {0: "By the way,"}, 1000, last=False)
    typed = {"type": "input_text", "text": "hello"}
    talk.ask(
        {
            "type": "conversation.item.create",
            "item": {"type": "message", "role": "user", "content": [typed]},
        }
    )
    ask(talk, "first")
    ask(talk, "second")
    assert len(talk.sent(p.CreateResponse)) == 2 * is_taken
    refused = [event["error"]["event_id"] for event in talk.of("error")]
    assert refused == ([] if is_taken else ["first", "second"])


def test_cancelling_and_asking_in_one_breath_gets_the_new_answer() -> None:
    talk = Talk()
    talk.answer(1, {0: "long"}, 1000)
    talk.play(100)
    talk.to_engine.clear()
    talk.ask({"type": "response.cancel"})
    ask(talk)
    kinds = [type(message) for message in talk.to_engine]
    assert kinds == [p.CancelResponse, p.Heard, p.CreateResponse]
    assert talk.of("error") == []


@pytest.mark.parametrize(
    ("options", "member"),
    [
        ({"conversation": "none"}, "conversation"),
        ({"input": []}, "input"),
        ({"input": [{"type": "message"}]}, "input"),
        ({"max_output_tokens": 7}, "max_output_tokens"),
        ({"audio": {"output": {"voice": "marin"}}}, "audio.output.voice"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"temperature": 0.5}, "temperature"),
        ({"modalities": ["text"]}, "modalities"),
        ({"audio": {"output": {"speed": 2}}}, "audio.output.speed"),
        ({"conversation": "mine"}, "conversation"),
        ({"metadata": {"topic": 3}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ],
    ids=str,
)
def test_what_a_response_cannot_have_is_refused_by_name(
    options: dict[str, Any], member: str
) -> None:
    talk = Talk()
    ask(talk, **options)
    error = talk.one("error")["error"]
    assert error["param"].startswith(f"response.{member}") and error["event_id"] == "e1"
    assert f"response.{member}" in error["message"] and talk.to_engine == []


@pytest.mark.parametrize(
    "options",
    [
        {"conversation": "auto", "tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"max_output_tokens": "inf", "audio": {"output": {"voice": "default"}}},
        {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}}}},
        dict.fromkeys(("conversation", "input", "metadata", "audio", "tools", "prompt")),
    ],
    ids=str,
)
def test_what_is_so_anyway_may_be_asked_for(options: dict[str, Any]) -> None:
    talk = Talk()
    ask(talk, **options)
    assert talk.events == [] and len(talk.sent(p.CreateResponse)) == 1


@pytest.mark.parametrize(
    ("kind", "code", "type"),
    [
        ("response.create", "empty_message", "invalid_request_error"),
        ("response.create", "overloaded", "server_error"),
        ("input_audio_buffer.commit", p.COMMIT_EMPTY, "invalid_request_error"),
    ],
)
def test_a_request_that_comes_to_nothing_is_an_error_with_the_clients_event(
    kind: str, code: str, type: str
) -> None:
    talk = Talk()
    talk.ask({"type": kind, "event_id": "other"})
    talk.ask({"type": kind, "event_id": "mine"})
    request = talk.to_engine[-1]
    assert isinstance(request, p.CreateResponse | p.CommitAudio)
    talk.hear(p.RequestRefused(SESSION, request.request, code, "nothing was said"))
    error = talk.one("error")["error"]
    assert (error["code"], error["type"], error["event_id"]) == (code, type, "mine")
    assert error["message"] == "Nothing was said."


FUNCTION = {"type": "function", "name": "weather", "parameters": {}}


def able() -> Talk:
    talk = Talk()
    talk.conversation.abilities = Abilities(
        tool_modes=("full_duplex",),
        answers_out_of_band=True,
        honours=frozenset({"max_output_tokens"}),
    )
    return talk


def test_what_the_engine_can_is_passed_on_for_this_response_alone() -> None:
    talk = able()
    choice = {"type": "function", "name": "weather"}
    ask(talk, tools=[FUNCTION], tool_choice=choice, max_output_tokens=50)
    [create] = talk.sent(p.CreateResponse)
    assert create.tools is not None and create.tools[0].name == "weather"
    assert (create.tool_choice, create.tool_name) == ("required", "weather")
    assert create.max_output_tokens == 50 and not create.is_out_of_band
    talk.hear(p.ResponseStarted(SESSION, 1, "request", request=create.request))
    assert talk.one("response.created")["response"]["max_output_tokens"] == 50
    assert talk.conversation.settings.tools == ()


def test_response_beside_the_conversation_answers_what_it_is_given() -> None:
    talk = able()
    talk.answer(1, {0: "long"}, 1000)
    content = [{"type": "input_text", "text": "Is this safe?"}]
    kept = {"type": "message", "role": "user", "content": content, "id": "mine"}
    talk.ask({"type": "conversation.item.create", "item": kept})
    given = [{"type": "message", "role": "system", "content": content}]
    ask(
        talk,
        conversation="none",
        output_modalities=["text"],
        input=[*given, {"type": "item_reference", "id": "mine"}],
        metadata={"topic": "guard"},
    )
    [create] = talk.sent(p.CreateResponse)
    assert create.is_out_of_band and create.input is not None
    assert [item.role for item in create.input] == ["system", "user"]
    assert create.input[1].parts == (p.TextPart("Is this safe?"),)
    talk.take_types()
    talk.hear(p.ResponseStarted(SESSION, 2, "request", modality="text", request=create.request))
    talk.hear(p.TextOut(SESSION, 2, 0, "yes"), p.ResponseDone(SESSION, 2, "completed"))
    done = talk.one("response.done")["response"]
    assert done["conversation_id"] is None and done["metadata"] == {"topic": "guard"}
    assert (
        "conversation.item.added" not in talk.types
        and talk.conversation.responses.active is not None
    )


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"conversation": "none"}, "response.output_modalities"),
        ({"conversation": "none", "output_modalities": ["text"], "input": [{"type": "x"}]}, *(
            "response.input.0.type",)),
        ({"conversation": "none", "output_modalities": ["text"], "input": [
            {"type": "item_reference", "id": "nobody"}]}, "item_id"),
        ({"tools": [{"type": "mcp"}]}, "response.tools.0.type"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "response.tool_choice.name"),
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense_is_refused_though_the_engine_could(
    options: dict[str, Any], param: str
) -> None:
    talk = able()
    ask(talk, **options)
    assert talk.one("error")["error"]["param"] == param and talk.to_engine == []
