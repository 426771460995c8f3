"""A checkpoint from a hub: fetched with progress in bytes, refused with what helps.

The hub is a server of this test's own that answers what the client's library asks of a real one.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from engine.hub import HubError, locate

hub = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": bytes(3_000_000)}


class FakeHub(BaseHTTPRequestHandler):
    """One repository, `acme/omni`; every other is not there."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/acme/omni/tree/"):
            rows = [
                {"type": "file", "path": name, "size": len(body), "oid": f"{len(body):040x}"}
                for name, body in FILES.items()
            ]
            return self._send(200, json.dumps(rows).encode(), head, {})
        if path.startswith("/api/models/acme/omni"):
            siblings = [{"rfilename": name} for name in FILES]
            told = {"id": "acme/omni", "sha": COMMIT, "siblings": siblings, "tags": []}
            return self._send(200, json.dumps(told).encode(), head, {})
        name = path.rpartition("/")[2]
        if path == f"/acme/omni/resolve/{COMMIT}/{name}" and name in FILES:
            marks = {"ETag": f'"{len(FILES[name]):040x}"', "X-Repo-Commit": COMMIT}
            return self._send(200, FILES[name], head, marks)
        refused = {"X-Error-Code": "RepoNotFound"}
        return self._send(404, b'{"error": "Repository not found"}', head, refused)

    def _send(self, status: int, body: bytes, head: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    constants = importlib.import_module("huggingface_hub.constants")
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    yield
    server.shutdown()
    serving.join()
    server.server_close()


def test_checkpoint_is_fetched_and_tells_how_far_it_is(fake_hub: None) -> None:
    told: list[tuple[str, int, int]] = []
    folder = locate("acme/omni", lambda *figures: told.append(figures))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert told[0] == ("acme/omni", 0, 0), "said before anything has come"
    whole = sum(map(len, FILES.values()))
    assert ("acme/omni", whole, whole) in told
    assert all(0 <= done <= total <= whole for _, done, total in told)


def test_checkpoint_that_the_hub_does_not_have_is_named_with_what_fetches_it(
    fake_hub: None,
) -> None:
    with pytest.raises(HubError, match=r"(?s)acme/none is not a folder.*hf download acme/none"):
        locate("acme/none")


def test_folder_that_is_not_there_tells_how_to_fetch_it() -> None:
    with pytest.raises(HubError, match=r"(?s)is not a folder.*hf download"):
        locate("/nowhere/model")


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate(tmp_path) == tmp_path
