"""A hub of models on this machine: answers what `huggingface_hub` asks of the real one."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "c0ffee" + "0" * 34
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LARGE = (".onnx", ".bin", ".safetensors")
"""Of such files the SHA-256 is told."""


huggingface_hub = pytest.importorskip("huggingface_hub")


class HubServer:
    """Has files by repository and path, all of one commit; in a `with` block, within which the
    environment names no proxy."""

    def __init__(self, files: Mapping[str, Mapping[str, bytes]]) -> None:
        self.files = {name: dict(own) for name, own in files.items()}
        self.damaged = ""
        """The path for which something else is sent."""
        self.cut = ""
        """The path of which half is sent before the connection is closed."""
        self.asked: list[str] = []
        """Revision and path of each file that was asked for."""
        self.authorizations: set[str | None] = set()
        """What requests showed who asks."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._environment = mock.patch.dict(os.environ)
        self._environment.start()
        for name in PROXIES:
            os.environ.pop(name, None)
            os.environ.pop(name.lower(), None)
        # It keeps a client that has read the environment.
        huggingface_hub.close_session()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._environment.stop()
        huggingface_hub.close_session()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """What the hub says to a request."""
        self.authorizations.add(request.headers.get("Authorization"))
        path = unquote(urlsplit(request.path).path).removeprefix("/")
        kind, _, rest = path.partition("/")
        if kind == "api":
            _, owner, name, *asked = rest.split("/")
            return self._about(request, f"{owner}/{name}", asked)
        owner, name, _, revision, path = path.split("/", 4)
        repository = f"{owner}/{name}"
        if request.command == "GET":
            self.asked.append(f"{revision} {path}")
        body = self.files.get(repository, {}).get(path, b"")
        if not body:
            return self._refuse(request, "EntryNotFound")
        told = {"X-Repo-Commit": COMMIT, "ETag": f'"{len(body):040x}"'}
        if path.endswith(LARGE):
            told["X-Linked-Etag"] = f'"{hashlib.sha256(body).hexdigest()}"'
        request.close_connection = path == self.cut
        told["Content-Length"] = str(len(body))
        sent = body[: len(body) // 2] if path == self.cut else body
        self._send(request, 200, body[::-1] if path == self.damaged else sent, told)

    def _about(self, request: BaseHTTPRequestHandler, repository: str, asked: list[str]) -> None:
        """A repository and its files; `asked`: nothing, `revision` or `tree` and which one."""
        if repository not in self.files:
            return self._refuse(request, "RepoNotFound")
        files = self.files[repository]
        rows: object = [
            {"type": "file", "path": path, "size": len(body), "oid": f"{len(body):040x}"}
            for path, body in files.items()
        ]
        if "tree" not in asked:
            siblings = [{"rfilename": path} for path in files]
            rows = {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
        self._send(request, 200, json.dumps(rows).encode(), {"Content-Type": "application/json"})

    def _refuse(self, request: BaseHTTPRequestHandler, code: str) -> None:
        self._send(request, 404, b'{"error": "not found"}', {"X-Error-Code": code})

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
