"""`omnicall models get`: what is fetched, kept, and refused. From a server on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import run
from engine.builtin.model_fetch import PINS, Fetched, ModelFolder
from engine.builtin.published_models import EXAMPLES, PublishedModel, find_published
from engine.builtin.speech_models import ears_in, voices_in
from engine.hub import unheard
from tests.hubserver import COMMIT, HubServer

VOICE = "de_DE-thorsten-medium"
VOICE_PATH = f"de/de_DE/thorsten/medium/{VOICE}.onnx"
PUBLISHED = {
    "rhasspy/piper-voices": {
        VOICE_PATH: b"weights",
        f"{VOICE_PATH}.json": b"{}",
        "README.md": b"nobody asks for it",
    },
    "Systran/faster-whisper-base": {
        "model.bin": b"weights" * 1000,
        "config.json": b"{}",
        "vocabulary.txt": "\n".join(["<|de|>", *map(str, range(52_000))]).encode(),
    },
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubServer(PUBLISHED) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def get(hub: HubServer, folder: Path, *names: str) -> int:
    del hub  # $HF_ENDPOINT names it.
    return run.main(["models", "get", *names, "--dir", str(folder)])


def test_what_is_fetched_is_what_the_settings_take(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(hub, tmp_path, VOICE, "whisper-base") == 0
    (voice,) = voices_in(str(tmp_path / "voices"))
    assert voice.name == VOICE and Path(voice.path).read_bytes() == b"weights"
    (ear,) = ears_in(str(tmp_path / "recognisers"), ("de", "fr"))
    assert ear.languages == ("de",)
    told = capsys.readouterr().err
    assert f"builtin.voice_dir={tmp_path / 'voices'}" in told and "100 %" in told
    assert "not checked" in told and hashlib.sha256(b"weights").hexdigest() in told
    assert {path.name for path in tmp_path.iterdir()} == {"voices", "recognisers", PINS}
    assert not any("README" in asked for asked in hub.asked)


def test_what_is_there_is_not_fetched_again(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(hub, tmp_path, VOICE) == 0
    hub.asked.clear()
    assert get(hub, tmp_path, VOICE) == 0
    assert hub.asked == [] and "as it was before" in capsys.readouterr().err


def test_the_commit_is_kept_and_another_file_under_its_name_refused(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(hub, tmp_path, VOICE) == 0
    pins = json.loads((tmp_path / PINS).read_text())
    assert {pin["commit"] for pin in pins.values()} == {COMMIT}
    hub.asked.clear()
    path = tmp_path / "voices" / f"{VOICE}.onnx"
    path.unlink()
    hub.files["rhasspy/piper-voices"][VOICE_PATH] = b"something else"
    assert get(hub, tmp_path, VOICE) == 1
    assert hub.asked == [f"{COMMIT} {VOICE_PATH}"]
    assert "is refused" in capsys.readouterr().err and not path.exists()


def test_a_file_that_comes_damaged_is_not_kept(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.damaged = VOICE_PATH
    assert get(hub, tmp_path, VOICE) == 1
    assert "damaged" in capsys.readouterr().err
    assert list(json.loads((tmp_path / PINS).read_text())) == [f"voices/{VOICE}.onnx.json"]
    assert [path.name for path in (tmp_path / "voices").iterdir()] == [f"{VOICE}.onnx.json"]


def test_nobody_is_shown_the_token_of_a_user(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    assert get(hub, tmp_path, VOICE) == 0
    assert hub.authorizations == {None}


def test_no_source_fills_the_disk(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("engine.builtin.model_fetch.MOST_BYTES", 6_999)
    assert get(hub, tmp_path, "whisper-base") == 1
    assert "there are more than 6999 bytes of it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_of_a_model_may_be_the_same(hub: HubServer, tmp_path: Path) -> None:
    files = hub.files["Systran/faster-whisper-base"]
    files["config.json"] = files["vocabulary.txt"]
    assert get(hub, tmp_path, "whisper-base") == 0
    kept = tmp_path / "recognisers" / "whisper-base"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == files


def test_names_that_are_none_and_models_that_are_not_there(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(hub, tmp_path, "../../etc/passwd") == 2
    assert "no name of a model" in capsys.readouterr().err
    assert get(hub, tmp_path, "whisper-small") == 1
    assert "whisper-small cannot be fetched" in capsys.readouterr().err
    assert get(hub, tmp_path, "de_DE-thorsten-high") == 1
    assert "is there such a model" in capsys.readouterr().err


def test_pins_that_cannot_be_read_are_told(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / PINS).write_text("not JSON")
    assert get(hub, tmp_path, VOICE) == 1
    assert PINS in capsys.readouterr().err and hub.asked == []


def test_of_two_that_fetch_at_once_one_is_refused(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert get(hub, tmp_path, VOICE) == 1
    assert "is being fetched into" in capsys.readouterr().err and hub.asked == []
    os.close(other)
    assert get(hub, tmp_path, VOICE) == 0


def test_pins_that_came_meanwhile_are_kept(hub: HubServer, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    assert get(hub, tmp_path, VOICE) == 0
    model = find_published("whisper-base")
    assert model is not None
    folder.fetch(model, hub.url, unheard)
    assert len(json.loads((tmp_path / PINS).read_text())) == 5


def test_who_stops_it_is_told_how_to_use_what_is_there(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fetch = ModelFolder.fetch

    def stopped(folder: ModelFolder, model: PublishedModel, *more: Any) -> list[Fetched]:
        if model.kind == "recogniser":
            raise KeyboardInterrupt
        return fetch(folder, model, *more)

    monkeypatch.setattr(ModelFolder, "fetch", stopped)
    assert get(hub, tmp_path, VOICE, "whisper-base") == 130
    told = capsys.readouterr().err
    assert f"builtin.voice_dir={tmp_path / 'voices'}" in told and "recogniser_dir" not in told


def test_the_names_that_are_told_are_names() -> None:
    assert all(find_published(name) for name in EXAMPLES)
    assert find_published("whisper-large-v3.en") is None
    assert find_published("en_US-joe-best") is None
