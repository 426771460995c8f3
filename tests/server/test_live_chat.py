"""Chats with a running server: the openai package, unmodified, and bare HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncIterator, Iterator
from typing import Any

import av
import openai
import pytest
from aiohttp import ClientSession

from tests.serving import Serving
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.loopback

MESSAGES: list[Any] = [{"role": "user", "content": "one two three four"}]
AUDIO: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
SCRIPT = """
sound = "tones"
[[answer]]
when = "wait"
wait_s = 60
say = "Late."
[[answer]]
when = "weather"
calls = [{ name = "get_weather", arguments = { city = "Berlin" }, pieces = 3 }]
[[answer]]
to = "tool"
say = "The sun shines."
"""
WEATHER: Any = [{"role": "user", "content": "How is the weather?"}]
WAIT: Any = [{"role": "user", "content": "wait"}]
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving("--engine", "echo", "--set", "chat.slots=1") as serving:
        yield serving


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    path = tmp_path_factory.mktemp("script") / "chat.toml"
    path.write_text(SCRIPT)
    options = ("--set", "chat.slots=1", "--set", "chat.wait_s=0.3")
    with Serving("--engine", "scripted", "--script", str(path), *options) as serving:
        yield serving


@pytest.fixture
def client(server: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0)


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


def seconds_of(file: bytes) -> float:
    with av.open(io.BytesIO(file), "r") as opened:
        frames: list[Any] = list(opened.decode(audio=0))
    samples: int = sum(frame.samples for frame in frames)
    return samples / int(frames[0].sample_rate)


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["omnicall", "echo", "echo-engine"]
    assert client.models.retrieve("omnicall").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_written_answer_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="omnicall", messages=MESSAGES)
    assert whole.choices[0].message.content == "one two three four"
    assert whole.choices[0].finish_reason == "stop"
    options: Any = {"include_usage": True}
    with client.chat.completions.stream(
        model="omnicall", messages=MESSAGES, stream_options=options
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.delta") >= 4, "words come as they are ready"
    assert final.choices[0].message.content == "one two three four"
    assert final.usage is not None


def test_answer_ends_at_a_stop_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="omnicall", messages=MESSAGES, stop="three")
    assert answer.choices[0].message.content == "one two "


@pytest.mark.parametrize("kind", ["wav", "pcm16", "mp3", "opus", "flac", "aac"])
def test_spoken_answer_is_a_file_of_the_format(client: openai.OpenAI, kind: Any) -> None:
    asked = AUDIO | {"audio": {"voice": "alloy", "format": kind}}
    answer = client.chat.completions.create(model="omnicall", messages=MESSAGES, **asked)
    audio = answer.choices[0].message.audio
    assert audio is not None and audio.transcript == "one two three four"
    data = base64.b64decode(audio.data)
    if kind == "pcm16":
        assert len(data) == 19_200
        return
    assert abs(seconds_of(data) - 0.4) < 0.1


def test_spoken_answer_is_streamed_and_named_later(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="omnicall", messages=MESSAGES, **AUDIO) as stream:
        message = stream.get_final_completion().choices[0].message
    audio = message.audio
    assert audio is not None and audio.transcript == "one two three four"
    assert len(base64.b64decode(audio.data)) == 19_200 and message.content is None
    later: list[Any] = [*MESSAGES, {"role": "assistant", "audio": {"id": audio.id}}, *MESSAGES]
    client.chat.completions.create(model="omnicall", messages=later)


async def test_async_client_and_a_wav_that_plays(server: Serving) -> None:
    client = openai.AsyncOpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0)
    asked = AUDIO | {"audio": {"voice": "alloy", "format": "wav"}}
    data = b""
    stream = await client.chat.completions.create(
        model="omnicall", messages=MESSAGES, stream=True, **asked
    )
    async for chunk in stream:
        audio = chunk.choices[0].delta.audio if chunk.choices else None
        data += base64.b64decode((audio and audio.data) or "")
    await client.close()
    assert seconds_of(data) == 0.4


def test_mistakes_are_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="omnicall", messages=MESSAGES, n=2)
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "n")


def test_engine_that_takes_in_no_recordings_says_so(client: openai.OpenAI) -> None:
    packed = io.BytesIO()
    with wave.open(packed, "wb") as written:
        written.setparams((1, 2, 16_000, 0, "NONE", ""))
        written.writeframes(bytes(32_000))
    sound = {"data": base64.b64encode(packed.getvalue()).decode(), "format": "wav"}
    messages: Any = [{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}]
    for is_streamed in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="omnicall", messages=messages, stream=is_streamed)
        assert caught.value.param == "messages.0.content.0"


async def test_members_without_effect_are_told_to_pages_too(
    server: Serving, http: ClientSession
) -> None:
    body = {"model": "omnicall", "messages": MESSAGES, "user": "me", "temperature": 1}
    headers = {"Origin": "http://localhost:1234"}
    for is_streamed in (False, True):
        asked = body | {"stream": is_streamed}
        async with http.post(
            f"{server.url}v1/chat/completions", json=asked, headers=headers
        ) as answer:
            assert answer.headers["Omnicall-Ignored"] == "user, temperature"
            assert "Omnicall-Ignored" in answer.headers["Access-Control-Expose-Headers"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "text/event-stream" in answer.content_type or not is_streamed


# ---------------------------------------------------------------- tools, and clients that leave


@pytest.fixture(scope="module")
def chained(scripted: Serving) -> Iterator[Serving]:
    """The built-in engine, whose chat endpoint is the other server."""
    url = ("--set", f"builtin.chat.url={scripted.url}v1", "--set", "builtin.chat.model=omnicall")
    with Serving("--engine", "builtin", *url) as serving:
        yield serving


@pytest.mark.parametrize("engine", ["scripted", "chained"])
def test_functions_are_called_and_their_results_answered(
    engine: str, request: pytest.FixtureRequest
) -> None:
    serving: Serving = request.getfixturevalue(engine)
    client = openai.OpenAI(base_url=f"{serving.url}v1", api_key="none", max_retries=0)
    asked: Any = {"model": "omnicall", "tools": TOOLS}
    with client.chat.completions.stream(messages=WEATHER, **asked) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Berlin"},
    )
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turn = choice.message.model_dump(exclude_none=True, exclude={"parsed"})
    for made in turn["tool_calls"]:
        made["function"].pop("parsed_arguments", None)
    messages: Any = [*WEATHER, turn, result]
    answer = client.chat.completions.create(messages=messages, **asked)
    assert answer.choices[0].message.content == "The sun shines."


async def until_used(server: Serving, http: ClientSession, num_chats: int) -> None:
    """Wait until so many chats hold slots."""
    used = -1
    async with asyncio.timeout(PATIENCE_S):
        while used != num_chats:
            await asyncio.sleep(0.05)
            async with http.get(f"{server.url}api/stats") as answer:
                used = (await answer.json())["chats"]["used"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_client_that_leaves_frees_the_slot(
    scripted: Serving, http: ClientSession, is_streamed: bool
) -> None:
    body = {"model": "omnicall", "messages": WAIT, "stream": is_streamed}
    asking = asyncio.create_task(http.post(f"{scripted.url}v1/chat/completions", json=body))
    await until_used(scripted, http, 1)
    asking.cancel()
    await until_used(scripted, http, 0)


async def test_full_house_is_told_and_a_retry_succeeds(
    scripted: Serving, http: ClientSession
) -> None:
    body = {"model": "omnicall", "messages": WAIT}
    asking = asyncio.create_task(http.post(f"{scripted.url}v1/chat/completions", json=body))
    await until_used(scripted, http, 1)
    client = openai.AsyncOpenAI(base_url=f"{scripted.url}v1", api_key="none", max_retries=0)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="omnicall", messages=MESSAGES)
    assert (caught.value.status_code, caught.value.code) == (503, "no_free_slot")
    assert int(caught.value.response.headers["Retry-After"]) >= 1
    asking.cancel()
    patient = client.with_options(max_retries=2)
    answer = await patient.chat.completions.create(model="omnicall", messages=WEATHER, tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    await client.close()
