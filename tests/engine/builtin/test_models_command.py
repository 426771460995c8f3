"""`omnicall models get`: what is fetched, kept, and refused. From a server on this machine."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import run
from engine.builtin.model_fetch import PINS, Fetched, ModelFolder
from engine.builtin.published_models import EXAMPLES, PublishedModel, find_published
from engine.builtin.speech_models import ears_in, voices_in

COMMIT = "c0ffee" + "0" * 34
VOICE = "de_DE-thorsten-medium"
VOICE_PATH = f"de/de_DE/thorsten/medium/{VOICE}.onnx"


class Hub:
    """Has files by repository and path, each in a store to which it redirects."""

    def __init__(self) -> None:
        self.files = {
            f"rhasspy/piper-voices/{VOICE_PATH}": b"weights",
            f"rhasspy/piper-voices/{VOICE_PATH}.json": b"{}",
            "Systran/faster-whisper-base/model.bin": b"weights" * 1000,
            "Systran/faster-whisper-base/config.json": b"{}",
            "Systran/faster-whisper-base/vocabulary.txt": "\n".join(
                ["<|de|>", *map(str, range(52_000))]
            ).encode(),
        }
        self.damaged = ""
        self.asked: list[str] = []
        """Revision and path of each request."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/store/"):
            key = request.path.removeprefix("/store/")
            data = self.files[key]
            request.send_response(200)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data[::-1] if key == self.damaged else data)
            return
        owner, name, _, revision, path = request.path[1:].split("/", 4)
        self.asked.append(f"{revision} {path}")
        key = f"{owner}/{name}/{path}"
        if key not in self.files:
            request.send_error(404)
            return
        request.send_response(302)
        request.send_header("Location", f"/store/{key}")
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("X-Linked-Etag", f'"{hashlib.sha256(self.files[key]).hexdigest()}"')
        request.send_header("Content-Length", "0")
        request.end_headers()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hub() -> Iterator[Hub]:
    found = Hub()
    yield found
    found.close()


def get(hub: Hub, folder: Path, *names: str) -> int:
    return run.main(["models", "get", *names, "--dir", str(folder), "--source", hub.url])


def test_what_is_fetched_is_what_the_settings_take(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(hub, tmp_path, VOICE, "whisper-base") == 0
    (voice,) = voices_in(str(tmp_path / "voices"))
    assert voice.name == VOICE and Path(voice.path).read_bytes() == b"weights"
    (ear,) = ears_in(str(tmp_path / "recognisers"), ("de", "fr"))
    assert ear.languages == ("de",)
    told = capsys.readouterr().err
    assert f"builtin.voice_dir={tmp_path / 'voices'}" in told and "100 %" in told
    assert "not checked" in told and hashlib.sha256(b"weights").hexdigest() in told
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_there_is_not_fetched_again(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(hub, tmp_path, VOICE) == 0
    hub.asked.clear()
    assert get(hub, tmp_path, VOICE) == 0
    assert hub.asked == [] and "as it was before" in capsys.readouterr().err


def test_the_commit_is_kept_and_another_file_under_its_name_refused(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(hub, tmp_path, VOICE) == 0
    assert hub.asked == [f"v1.0.0 {VOICE_PATH}.json", f"{COMMIT} {VOICE_PATH}"]
    path = tmp_path / "voices" / f"{VOICE}.onnx"
    path.unlink()
    hub.files[f"rhasspy/piper-voices/{VOICE_PATH}"] = b"something else"
    assert get(hub, tmp_path, VOICE) == 1
    assert hub.asked[2:] == [f"{COMMIT} {VOICE_PATH}"]
    assert "is refused" in capsys.readouterr().err and not path.exists()


def test_a_file_that_comes_damaged_is_not_kept(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.damaged = f"rhasspy/piper-voices/{VOICE_PATH}"
    assert get(hub, tmp_path, VOICE) == 1
    assert "damaged" in capsys.readouterr().err
    assert list(json.loads((tmp_path / PINS).read_text())) == [f"voices/{VOICE}.onnx.json"]
    assert [path.name for path in (tmp_path / "voices").iterdir()] == [f"{VOICE}.onnx.json"]


def test_names_that_are_none_and_models_that_are_not_there(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(hub, tmp_path, "../../etc/passwd") == 2
    assert "no name of a model" in capsys.readouterr().err
    assert get(hub, tmp_path, "whisper-small") == 1
    assert "answers 404" in capsys.readouterr().err


def test_pins_that_cannot_be_read_are_told(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / PINS).write_text("not JSON")
    assert get(hub, tmp_path, VOICE) == 1
    assert PINS in capsys.readouterr().err and hub.asked == []


def test_of_two_that_fetch_at_once_one_is_refused(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert get(hub, tmp_path, VOICE) == 1
    assert "is being fetched into" in capsys.readouterr().err and hub.asked == []
    os.close(other)
    assert get(hub, tmp_path, VOICE) == 0


def test_pins_that_came_meanwhile_are_kept(hub: Hub, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    assert get(hub, tmp_path, VOICE) == 0
    model = find_published("whisper-base")
    assert model is not None
    asyncio.run(folder.fetch(model, hub.url, lambda name, done, total: None))
    assert len(json.loads((tmp_path / PINS).read_text())) == 5


def test_who_stops_it_is_told_how_to_use_what_is_there(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fetch = ModelFolder.fetch

    async def stopped(folder: ModelFolder, model: PublishedModel, *more: Any) -> list[Fetched]:
        if model.kind == "recogniser":
            raise KeyboardInterrupt
        return await fetch(folder, model, *more)

    monkeypatch.setattr(ModelFolder, "fetch", stopped)
    assert get(hub, tmp_path, VOICE, "whisper-base") == 130
    told = capsys.readouterr().err
    assert f"builtin.voice_dir={tmp_path / 'voices'}" in told and "recogniser_dir" not in told


def test_the_names_that_are_told_are_names() -> None:
    assert all(find_published(name) for name in EXAMPLES)
    assert find_published("whisper-large-v3.en") is None
    assert find_published("en_US-joe-best") is None
