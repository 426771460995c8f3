"""Texts read aloud and recordings written down by a running server, with the openai package."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import openai
import pytest
from aiohttp import ClientSession
from PIL import Image

from tests import ROOT
from tests.serving import Serving

pytestmark = pytest.mark.loopback

WHAT_TIME = ROOT / "tests/engine/data/what_time.wav"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving("--engine", "builtin") as serving:
        yield serving


@pytest.fixture
def client(server: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0)


def seconds_of(file: bytes) -> float:
    with av.open(io.BytesIO(file), "r") as opened:
        frames: list[Any] = list(opened.decode(audio=0))
    samples: int = sum(frame.samples for frame in frames)
    return samples / int(frames[0].sample_rate)


def test_text_is_said_word_for_word_in_each_format(client: openai.OpenAI) -> None:
    asked: Any = {"model": "omnicall", "voice": "en-us", "input": "hello hello hello"}
    pcm = client.audio.speech.create(response_format="pcm", **asked).content
    seconds = len(pcm) / 48_000
    assert seconds > 0.5
    for kind in ("wav", "mp3"):
        file = client.audio.speech.create(response_format=kind, **asked).content
        assert abs(seconds_of(file) - seconds) < 0.1, kind
    fast = client.audio.speech.create(response_format="pcm", speed=2, **asked).content
    assert len(fast) < 0.7 * len(pcm)


async def test_speech_comes_as_events_too(server: Serving) -> None:
    body = {"model": "omnicall", "voice": "alloy", "input": "hello", "response_format": "pcm"}
    async with (
        ClientSession() as http,
        http.post(f"{server.url}v1/audio/speech", json=body | {"stream_format": "sse"}) as answer,
    ):
        assert answer.headers["Omnicall-Ignored"] == "voice"
        lines = (await answer.text()).strip().split("\n\n")
    *deltas, done = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert done["type"] == "speech.audio.done" and "total_tokens" in done["usage"]
    assert len(b"".join(base64.b64decode(d["audio"]) for d in deltas)) > 10_000


def test_recording_is_written_down(client: openai.OpenAI) -> None:
    told = client.audio.transcriptions.create(model="omnicall", file=WHAT_TIME)
    assert told.text == "what time is it"
    shown = client.audio.transcriptions.create(
        model="omnicall", file=WHAT_TIME, response_format="vtt"
    )
    assert "what time is it" in str(shown)
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(
            model="omnicall", file=("a.wav", Path(__file__).read_bytes())
        )
    assert caught.value.param == "file"


def test_recording_in_a_chat_is_answered(client: openai.OpenAI) -> None:
    sound = {"data": base64.b64encode(WHAT_TIME.read_bytes()).decode(), "format": "wav"}
    messages: Any = [{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}]
    answer = client.chat.completions.create(model="omnicall", messages=messages)
    assert (answer.choices[0].message.content or "").startswith("It is ")


def test_picture_in_a_chat_is_looked_at(client: openai.OpenAI) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 20, 20)).save(file, "png")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    parts: list[Any] = [
        {"type": "text", "text": "?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    messages: Any = [{"role": "user", "content": parts}]
    answer = client.chat.completions.create(model="omnicall", messages=messages)
    assert answer.choices[0].message.content == "I see one even red area and nothing else in it."
    url_of_nothing = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    parts[1]["image_url"] = {"url": url_of_nothing}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="omnicall", messages=messages)
    assert caught.value.param == "messages.0.content.1"
