"""The `openai` package over HTTP: models and chat completions, sync, async, streamed and spoken."""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI

from tests.bench.clients.steps import (
    FOUND,
    GREETING,
    HZ,
    STORY,
    WEATHER,
    Report,
    arguments,
    loud_s,
)

FUNCTION = {"name": "get_weather", "description": "The weather.", "parameters": {"type": "object"}}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
SPOKEN: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}


def written(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def question(folder: Path) -> list[Any]:
    """A recording as a message."""
    packed = io.BytesIO()
    with wave.open(packed, "wb") as out:
        out.setparams((1, 2, HZ, 0, "NONE", ""))
        out.writeframes((folder / f"what_time.{HZ}.pcm").read_bytes())
    data = base64.b64encode(packed.getvalue()).decode()
    return [
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}],
        }
    ]


def speaks(client: OpenAI, folder: Path) -> None:
    """Sound in, sound and its words out."""
    answer = client.chat.completions.create(model="omnicall", messages=question(folder), **SPOKEN)
    audio = answer.choices[0].message.audio
    assert audio is not None and audio.transcript
    assert loud_s(base64.b64decode(audio.data)) > 0.5


def streams_captions(client: OpenAI) -> None:
    """Words and sound as they are ready."""
    words, sound = "", b""
    with client.chat.completions.stream(
        model="omnicall", messages=written(GREETING), **SPOKEN
    ) as stream:
        for event in stream:
            if event.type == "chunk" and event.chunk.choices:
                audio: Any = getattr(event.chunk.choices[0].delta, "audio", None)
                words += (audio and audio.transcript) or ""
                sound += base64.b64decode((audio and audio.data) or "")
        done = stream.get_final_completion().choices[0].message.audio
    assert "morning" in words and loud_s(sound) > 0.5
    assert done is not None and done.transcript == words


def writes(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="omnicall", messages=written(GREETING))
    assert "morning" in (answer.choices[0].message.content or "")
    assert answer.usage is not None and answer.usage.completion_tokens > 0


def calls(client: OpenAI) -> None:
    messages = written(WEATHER)
    first = client.chat.completions.create(model="omnicall", messages=messages, tools=TOOLS)
    assert first.choices[0].finish_reason == "tool_calls"
    call = (first.choices[0].message.tool_calls or [])[0]
    output: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages += [first.choices[0].message.model_dump(exclude_none=True), output]
    second = client.chat.completions.create(model="omnicall", messages=messages, tools=TOOLS)
    assert FOUND in (second.choices[0].message.content or "").lower()


async def is_cut(url: str) -> None:
    """Close a spoken stream at its beginning; the place is free again at once."""
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for _ in range(6):
        stream: Any = await client.chat.completions.create(
            model="omnicall", messages=written(STORY), stream=True, **SPOKEN
        )
        async for chunk in stream:
            if chunk.choices and getattr(chunk.choices[0].delta, "audio", None):
                break
        await stream.close()
    await client.close()


async def main() -> None:
    report = Report(version("openai"))
    url, folder = arguments()
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    async with report.step("connects"):
        assert "omnicall" in [model.id for model in client.models.list()]
        assert client.models.retrieve("omnicall").id == "omnicall"
    async with report.step("speech"):
        await asyncio.to_thread(speaks, client, folder)
    async with report.step("captions"):
        await asyncio.to_thread(streams_captions, client)
    async with report.step("interruption"):
        await is_cut(url)
    async with report.step("text"):
        await asyncio.to_thread(writes, client)
    async with report.step("tools"):
        await asyncio.to_thread(calls, client)


if __name__ == "__main__":
    asyncio.run(main())
