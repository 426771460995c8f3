"""The client for Python against the real server: the documentation's examples, and the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import omnicall.client as client
from tests import ROOT
from tests.serving import Serving
from tests.speech import DATA, read_wav

pytestmark = pytest.mark.loopback

TRANSPORTS = ("webrtc", "websocket")


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving("--engine", "builtin") as serving:
        yield serving


def run(*arguments: str | Path, cwd: Path = ROOT, given: str = "") -> str:
    """What a program of ours prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'web'}"},
        input=given,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done
    return done.stdout


def test_example_of_the_documentation_runs(server: Serving, tmp_path: Path) -> None:
    text = (ROOT / "docs/clients.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "example.py").write_text(text.replace("http://localhost:8006", server.url))
    (tmp_path / "question.wav").write_bytes((DATA / "what_time.wav").read_bytes())
    lines = run("example.py", cwd=tmp_path).splitlines()
    assert "user: what time is it" in lines
    begins = ("it wrote: It is", "assistant: It is", "it said: It is", "assistant: It is")
    assert all(any(line.startswith(begin) for line in lines) for begin in begins)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_command_prints_what_both_sides_say_and_records_it(
    server: Serving, tmp_path: Path, transport: str
) -> None:
    way = ["--ws"] if transport == "websocket" else []
    wav = str(DATA / "what_time.wav")
    question = ["--mode", "half_duplex", "--wav", wav, "--text", "who are you"]
    record = tmp_path / "out.wav"
    lines = run("run.py", "call", server.url, *way, *question, "--record", record).splitlines()
    assert lines[0] == "you: what time is it" and lines[1].startswith("assistant: It is")
    assert lines[2] == "you: who are you" and lines[3].startswith("assistant: ")
    rate, samples = read_wav(record)
    assert rate == 24_000 and np.abs(samples).max() > 0.05


def test_command_writes_the_lines_of_its_input(server: Serving) -> None:
    lines = run("run.py", "call", server.url, given="what time is it\n\nhello\n").splitlines()
    assert len(lines) == 2 and lines[0].startswith("assistant: It is")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_spoken_turn_is_answered_when_it_is_committed(
    server: Serving, transport: client.Transport
) -> None:
    rate, samples = read_wav(DATA / "what_time.wav")
    async with client.call(server.url, mode="turn_based", transport=transport) as call:
        await call.say(samples, rate)
        assert (await call.commit()).text.startswith("It is")
        await call.hang_up()
        heard = np.concatenate([pcm async for pcm in call.sound])
    assert np.abs(heard).max() > 1_000


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_speech_over_an_answer_cuts_it_to_what_was_heard(
    server: Serving, transport: client.Transport
) -> None:
    async with client.call(server.url, mode="half_duplex", transport=transport) as call:
        await call.write("tell me a story")
        async for caption in call.captions:
            if caption.role == "assistant":
                break
        await call.say_file(DATA / "what_time.wav")
        async for event in call.events:
            if event["type"] == "conversation.item.truncated":
                break
        assert 100 < event["audio_end_ms"] < 6_000
        assert (await call.answer()).text.startswith("It is")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_functions_of_the_program_are_called(transport: client.Transport) -> None:
    asked: list[str] = []

    async def get_weather(city: str) -> dict[str, str]:
        """The weather in a city."""
        asked.append(city)
        return {"sky": "clear"}

    def get_time(zone: str) -> str:
        """The time of day in a zone."""
        asked.append(zone)
        return "12:00"

    with Serving("--engine", "scripted", "--script", "tools") as serving:
        tools = [get_weather, get_time]
        async with client.call(
            serving.url, mode="half_duplex", tools=tools, transport=transport
        ) as call:
            assert (await call.ask("What is the weather in Berlin?")).text.startswith("Here is")
            await call.ask("And in Paris, and what time is it there?")
    assert asked[0] == "Berlin" and sorted(asked[1:]) == ["Europe/Paris", "Paris"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_conversation_goes_on_when_its_media_worker_dies(transport: client.Transport) -> None:
    with Serving("--engine", "builtin") as serving:
        async with client.call(serving.url, mode="turn_based", transport=transport) as call:
            assert "4" in (await call.ask("What is 2 plus 2?")).text
            before = call.id
            os.kill(serving.process("worker")["pid"], signal.SIGKILL)
            assert "6" in (await call.ask("What is 3 plus 3?")).text
            assert call.id == before and call.ending is None


async def test_call_that_is_not_to_come_back_ends_with_its_worker() -> None:
    with Serving("--engine", "echo") as serving:
        async with client.call(serving.url, reconnect=False) as call:
            os.kill(serving.process("worker")["pid"], signal.SIGKILL)
            with pytest.raises(client.CallOver) as ended:
                async for _ in call.sound:
                    pass
    assert ended.value.reason == "lost"
