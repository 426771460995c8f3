"""Texts to be said: every member of the openai package's type is served or told to be ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.audio import SpeechCreateParams

from signaling.audio.speech_request import ReadingOrder, ReadingRequest, parse_speech
from signaling.errors import ProtocolError


def parse(**members: Any) -> ReadingOrder:
    body = {"model": "omnicall", "input": "hello", "voice": "one"} | members
    return parse_speech(json.dumps(body).encode())


def test_every_member_has_its_fate() -> None:
    known = set(SpeechCreateParams.__annotations__)
    assert known - set(ReadingRequest.__struct_fields__) == {"instructions"}
    assert parse(instructions="Whisper.").ignored == ("instructions",)


def test_defaults_are_those_of_the_reference() -> None:
    order = parse(voice={"id": "two"})
    assert (order.kind, order.speed, order.voice, order.is_events) == ("mp3", 1.0, "two", False)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": "x" * 4097}, "input"),
        ({"speed": 0.2}, "speed"),
        ({"response_format": "midi"}, "response_format"),
        ({"stream_format": "smoke"}, "stream_format"),
        ({"voice": {}}, "voice"),
        ({"voice": None}, "voice"),
    ],
)
def test_faults_are_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(**members)
    assert caught.value.param == param
