"""A real TURN server on loopback: coturn with passwords that expire. Skips where it is missing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.front.certificates import Certificate

SECRET = "north-by-northwest"
START_S = 20


@contextmanager
def coturn_server(folder: Path, certificate: Certificate | None = None) -> Iterator[str]:
    """Yield the address at which it listens, by UDP, TCP and, with a certificate, TLS."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("turnserver is missing: install coturn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (
        *("-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}"),
        *("--use-auth-secret", f"--static-auth-secret={SECRET}", "--realm=omnicall.test"),
        *("--allow-loopback-peers", "--no-dtls", "--no-cli", "--log-file=stdout"),
        *(["--no-tls"] if certificate is None else _with(certificate)),
        *(f"--pidfile={folder}/pid", f"--userdb={folder}/db"),
    )
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([program, *options], stdout=out, stderr=out, cwd=folder)
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _with(certificate: Certificate) -> list[str]:
    return [f"--cert={certificate.cert}", f"--pkey={certificate.key}"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
