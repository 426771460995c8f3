"""Run the real server as its user does, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import ROOT
from tests.processes import of_role
from tests.told_events import ToldEvents

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
BASIC_SPEECH = {"OMNICALL_BUILTIN_SPEECH": "basic"}


class Serving:
    """A context manager around one server process; `url` is where it answers.

    `command` starts it: run.py of this checkout by default, or an installed `omnicall`.
    `log` takes all that its processes write to stderr.
    """

    def __init__(
        self,
        *options: str,
        command: tuple[str, ...] = (sys.executable, str(ROOT / "run.py")),
        cwd: Path = ROOT,
        environment: dict[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self._arguments = [*command, "--port", "0", *options]
        self._cwd = cwd
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMNICALL_")}
        # Tests mean one pair of ears, whatever is installed here.
        self._environment = inherited | BASIC_SPEECH | (environment or {})
        # Not in benchmarks, whose figures it would change.
        self._told = ToldEvents() if "PYTEST_VERSION" in os.environ else None
        if self._told is not None:
            self._environment |= self._told.environment
        self._log = log
        self.lines: list[str] = []
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Of the first process, with which all others end."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def front(self) -> int:
        """The pid of the process that answers HTTP."""
        return of_role(self.pid, "front")[0]

    def __enter__(self) -> Serving:
        with contextlib.ExitStack() as files:
            stderr = None if self._log is None else files.enter_context(open(self._log, "ab"))
            self._process = subprocess.Popen(
                self._arguments,
                cwd=self._cwd,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if "ready after" in line:
                self.url = line.split("open ")[1].strip()
                return self
        raise RuntimeError(f"the server did not start: {self.lines}, rc {self._process.wait()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End the server with a signal; how long it took, in s.

        In a test it raises `AssertionError` if an event was sent that OpenAI's types do not allow.
        """
        assert self._process is not None
        started = time.monotonic()
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        took_s = time.monotonic() - started
        if self._told is not None:
            self._told.check()
        return took_s

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON (or text) of a GET."""
        try:
            with urllib.request.urlopen(self.url.rstrip("/") + path, timeout=10) as answer:
                status, body = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read().decode()
        try:
            return status, json.loads(body)
        except json.JSONDecodeError:
            return status, body

    def process(self, role: str) -> dict[str, Any]:
        """The first process of a role in `/api/stats`."""
        _, stats = self.get("/api/stats")
        row: dict[str, Any] = next(row for row in stats["processes"] if row["role"] == role)
        return row
