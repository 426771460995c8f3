"""Chat requests: every member of the openai package's types is served, ignored aloud or refused."""

from __future__ import annotations

import base64
import inspect
import json
from typing import Any

import pytest
from openai.types import chat
from openai.types.chat import completion_create_params as params

from signaling.chat import messages as messages_module
from signaling.chat.request import IGNORED, REFUSED, ChatOrder, ChatRequest, parse_chat
from signaling.errors import ProtocolError
from signaling.session.items import (
    FunctionCall,
    FunctionCallOutput,
    InputAudioPart,
    InputImagePart,
    InputMessage,
    InputTextPart,
    InputVideoPart,
)

HELLO = [{"role": "user", "content": "hello"}]
WAV = b"RIFF\0\0\0\0WAVEfmt "
SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "one", "format": "wav"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def parse(recall: Any = lambda audio_id: None, **members: Any) -> ChatOrder:
    body = {"model": "omnicall", "messages": HELLO} | members
    return parse_chat(json.dumps(body).encode(), recall)


def refusal(**members: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        parse(**members)
    return caught.value


def content(*parts: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(parts)}]


def url(kind: str, data: bytes) -> dict[str, str]:
    return {"url": f"data:{kind};base64," + base64.b64encode(data).decode()}


def members_of(*types: Any) -> set[str]:
    return {name for type_ in types for base in inspect.getmro(type_) for name in _names(base)}


def _names(type_: Any) -> dict[str, Any]:
    return getattr(type_, "__annotations__", {})


# ---------------------------------------------------------------- every member has its fate


def test_every_member_is_served_or_ignored_or_refused() -> None:
    known = members_of(params.CompletionCreateParamsBase, params.CompletionCreateParamsStreaming)
    fates = [set(ChatRequest.__struct_fields__), set(REFUSED), set(IGNORED)]
    assert len(known) > 30
    assert {name for name in known if sum(name in fate for fate in fates) != 1} == set()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_members_are_named(name: str) -> None:
    error = refusal(**{name: "something else"})
    assert (error.status, error.code, error.param) == (400, "unsupported_value", name)
    for harmless in REFUSED[name]:
        parse(**{name: harmless})


def test_members_without_effect_are_told() -> None:
    given = dict.fromkeys(IGNORED, "x") | {"metadata": {"a": "b"}, "brand_new\r\nX": 1}
    told = parse(**given).ignored
    assert set(told) == set(IGNORED) | {"brand_newX"}
    assert parse(user=None).ignored == ()


def test_every_member_of_a_message_is_known() -> None:
    types = [
        chat.ChatCompletionSystemMessageParam,
        chat.ChatCompletionDeveloperMessageParam,
        chat.ChatCompletionUserMessageParam,
        chat.ChatCompletionAssistantMessageParam,
        chat.ChatCompletionToolMessageParam,
    ]
    known = set(messages_module._ChatMessage.__struct_fields__)
    assert members_of(*types) <= known


def test_every_part_is_read_or_refused_by_name() -> None:
    types = [
        chat.ChatCompletionContentPartTextParam,
        chat.ChatCompletionContentPartImageParam,
        chat.ChatCompletionContentPartInputAudioParam,
        chat.ChatCompletionContentPartRefusalParam,
    ]
    assert members_of(*types) <= set(messages_module._ContentPart.__struct_fields__)
    error = refusal(messages=content({"type": "file", "file": {"file_id": "x"}}))
    assert (error.code, error.param) == ("unsupported_value", "messages.0.content.0.type")


# ---------------------------------------------------------------- messages


def test_systems_messages_in_front_are_instructions() -> None:
    order = parse(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "hello"},
            {"role": "system", "content": "It rains."},
        ]
    )
    assert order.instructions == "Be brief.\n\nBe kind."
    roles = [item.item.role for item in order.items if isinstance(item.item, InputMessage)]
    assert roles == ["user", "system"]
    assert [item.where for item in order.items] == ["messages.2", "messages.3"]


def test_files_of_all_kinds_are_decoded() -> None:
    sound = {"data": base64.b64encode(WAV).decode(), "format": "wav"}
    order = parse(
        messages=content(
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": url("image/png", b"picture") | {"detail": "high"}},
            {"type": "input_audio", "input_audio": sound},
            {"type": "audio_url", "audio_url": url("audio/mpeg", b"ID3...")},
            {"type": "video_url", "video_url": url("video/mp4;codecs=avc1", b"film")},
        )
    )
    [item] = [ordered.item for ordered in order.items]
    assert isinstance(item, InputMessage)
    assert item.parts == (
        InputTextPart("look"),
        InputImagePart("image/png", b"picture", "high"),
        InputAudioPart(WAV),
        InputAudioPart(b"ID3..."),
        InputVideoPart("video/mp4", b"film"),
    )


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "image_url.url"),
        ({"type": "image_url"}, "image_url"),
        ({"type": "image_url", "image_url": url("image/png", b"")}, "image_url.url"),
        (
            {"type": "image_url", "image_url": url("image/png", bytes(8 * 1024 * 1024 + 1))},
            "image_url.url",
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}},
            "input_audio.data",
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAAAAAA", "format": "wav"}},
            "input_audio.data",
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "SUQzAAAA", "format": "wav"}},
            "input_audio.data",
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "ogg"}},
            "input_audio.format",
        ),
        ({"type": "text"}, "text"),
        ({"type": "hologram"}, "type"),
    ],
)
def test_faulty_parts_are_named(part: dict[str, Any], where: str) -> None:
    error = refusal(messages=[HELLO[0], *content({"type": "text", "text": "x"}, part)])
    assert (error.status, error.param) == (400, f"messages.1.content.1.{where}")


def test_calls_and_their_results_are_items() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    order = parse(
        messages=[
            *HELLO,
            {"role": "assistant", "content": "A moment.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "look"}},
        parallel_tool_calls=False,
    )
    assert [ordered.item for ordered in order.items][1:] == [
        InputMessage("assistant", (InputTextPart("A moment."),)),
        FunctionCall("call_1", "look", "{}"),
        FunctionCallOutput("call_1", "rain"),
    ]
    tools = order.tools
    assert (tools.choice, tools.name, tools.one_at_most) == ("required", "look", True)
    assert tools.functions[0].schema() == '{"type":"object"}'


def test_spoken_answers_are_named_by_their_id() -> None:
    spoken = {"role": "assistant", "audio": {"id": "audio_1"}}
    order = parse({"audio_1": "I said so."}.get, messages=[*HELLO, spoken, *HELLO])
    assert order.items[1].item == InputMessage("assistant", (InputTextPart("I said so."),))
    error = refusal(messages=[*HELLO, spoken])
    assert (error.code, error.param) == ("unknown_audio", "messages.1.audio.id")


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "assistant"}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"model": 3}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"modalities": ["text", "audio"]}, "audio"),
        (SPOKEN | {"audio": {"voice": "one", "format": "midi"}}, "audio.format"),
        (SPOKEN | {"audio": {"voice": {}, "format": "wav"}}, "audio.voice"),
        (SPOKEN | {"audio": {"voice": "one", "format": "mp3"}, "stream": True}, "audio.format"),
        (SPOKEN | {"stop": "x"}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": [{"type": "custom"}]}, "tools.0.type"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ],
)
def test_faulty_members_are_named(members: dict[str, Any], param: str) -> None:
    assert refusal(**members).param == param


def test_bodies_that_unpack_to_too_much_are_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_chat(b"[" + b"{}," * 100_001 + b"{}]", lambda audio_id: None)
    assert caught.value.status == 413
