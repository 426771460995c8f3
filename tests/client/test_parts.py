"""The parts of the client: backlogs, sound, functions, files, captions, the command's arguments."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import wave
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import omnicall.client as client
from omnicall.client.address import refusal
from omnicall.client.backlog import Backlog
from omnicall.client.captions import Captioner
from omnicall.client.command import main
from omnicall.client.pictures import file_part
from omnicall.client.sound import RATE, Recorder, Unsaid, as_pcm, read_sound
from omnicall.client.tools import Function, Toolbox
from tests import ROOT


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert client.__version__ == project["version"]


def test_who_calls_over_a_websocket_loads_no_peer_connections() -> None:
    code = "import omnicall.client, sys; print('aiortc' in sys.modules, 'aiohttp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "web", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


async def test_a_backlog_keeps_the_newest_and_counts_the_rest() -> None:
    backlog: Backlog[str] = Backlog(5, len)
    for entry in ("aa", "bbb", "cc"):
        backlog.put(entry)
    assert backlog.dropped == 1
    backlog.end(client.CallOver("hangup", ""))
    assert [entry async for entry in backlog] == ["bbb", "cc"]


async def test_an_entry_larger_than_a_backlog_is_kept_alone() -> None:
    backlog: Backlog[str] = Backlog(2, len)
    backlog.put("a")
    backlog.put("bbbb")
    backlog.end(client.CallOver("lost", "gone"))
    found = []
    with pytest.raises(client.CallOver, match="gone"):
        async for entry in backlog:
            found.append(entry)
    assert found == ["bbbb"]


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100, 48_000])
def test_sound_of_any_rate_becomes_the_same_tone(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate) * 0.5
    pcm = as_pcm(tone, rate)
    assert abs(len(pcm) - RATE) < RATE // 50
    peak = int(np.abs(np.fft.rfft(pcm)).argmax()) * RATE / len(pcm)
    assert abs(peak - 440) < 2 and 14_000 < np.abs(pcm).max() < 18_500


def test_two_channels_are_no_mono_sound() -> None:
    with pytest.raises(ValueError, match="one channel"):
        as_pcm(np.zeros((2, 100), np.int16), RATE)


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    pcm = np.random.default_rng(1).integers(-9_000, 9_000, 5_000, dtype=np.int16)
    recorder = Recorder(tmp_path / "out.wav")
    recorder.add(pcm[:2_000])
    recorder.add(pcm[2_000:])
    recorder.close()
    assert np.array_equal(read_sound(tmp_path / "out.wav"), pcm)
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert file.getparams()[:3] == (1, 2, RATE)
    with pytest.raises(client.ClientError, match=r"pyproject.toml holds no sound"):
        read_sound(ROOT / "pyproject.toml")


async def test_a_voice_says_everything_once_and_is_silent_then() -> None:
    voice = Unsaid()
    pcm = np.arange(1, 5_001, dtype=np.int16)
    await voice.say(pcm)
    taken = np.concatenate([voice.take(480) for _ in range(12)])
    assert np.array_equal(taken[:5_000], pcm) and not taken[5_000:].any()
    assert voice.waiting_s == 0


def find(
    place: str, kind: Literal["shop", "park"], radius_km: float = 1.0, tags: list[str] | None = None
) -> str:
    """Find places nearby."""
    return f"{place} {kind} {radius_km} {tags}"


def test_a_function_is_told_by_its_signature() -> None:
    assert Function(find).definition == {
        "type": "function",
        "name": "find",
        "description": "Find places nearby.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string"},
                "kind": {"enum": ["park", "shop"]},
                "radius_km": {"type": "number", "default": 1.0},
                "tags": {
                    "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}],
                    "default": None,
                },
            },
            "required": ["place", "kind"],
            "additionalProperties": False,
        },
    }


async def test_arguments_that_do_not_fit_are_told_to_the_model() -> None:
    function = Function(find)
    assert await function.run('{"place": "Rome", "kind": "park"}') == "Rome park 1.0 None"
    for wrong in ('{"place": "Rome"}', '{"place": 1, "kind": "park"}', "{", '{"kind": "sea"}'):
        assert (await function.run(wrong)).startswith('{"error": "The arguments do not fit')


def test_functions_that_cannot_be_told_are_refused() -> None:
    def star(*words: str) -> None: ...

    with pytest.raises(client.ClientError, match=r"star: parameters with \*"):
        Function(star)
    with pytest.raises(client.ClientError, match="name of its own"):
        Toolbox([find, find])


def test_files_become_parts_by_what_they_are(tmp_path: Path) -> None:
    assert file_part(b"\x89PNG....")["image_url"].startswith("data:image/png;base64,")
    film = tmp_path / "film.mp4"
    film.write_bytes(b"....ftypisom")
    assert file_part(film)["video_url"].startswith("data:video/mp4;base64,")
    with pytest.raises(client.ClientError, match="is no picture"):
        file_part(b"hello")
    with pytest.raises(client.ClientError, match="cannot be read"):
        file_part(tmp_path / "none.png")


def test_captions_grow_and_end() -> None:
    captioner = Captioner()
    delta = {"type": "response.output_text.delta", "item_id": "a"}
    texts = [captioner.apply(delta | {"delta": word}) for word in ("It", " is")]
    assert [caption.text for caption in texts if caption] == ["It", "It is"]
    done = captioner.apply({"type": "response.output_text.done", "item_id": "a", "text": "It is."})
    assert done == ("assistant", "a", "It is.", True)
    assert captioner.apply({"type": "session.updated"}) is None


def test_a_refusal_has_words_even_where_a_proxy_gave_none() -> None:
    told = refusal(503, b'{"error": {"message": "Full.", "code": "busy"}}', {"Retry-After": "7"})
    assert (str(told), told.code, told.retry_after_s) == ("Full.", "busy", 7.0)
    assert "takes no more calls" in str(refusal(503, b"<html>", {}))
    assert str(refusal(418, b"[]", {})) == "The server answered 418."


def test_command_tells_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1:9", "--wav", "no-such.wav"]) == 2
    assert main(["http://127.0.0.1:9", "--text", "hello"]) == 1
    assert main(["localhost:9", "--text", "hello"]) == 1
    assert main(["https://127.0.0.1:9", "--ca", str(ROOT / "README.md")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "omnicall: no-such.wav is no file"
    assert "cannot be reached" in told[1] and "https://" in told[2]
    assert "README.md holds no certificate" in told[3]
