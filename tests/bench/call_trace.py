"""Which of our functions call which, while some of them run, in every process of a server.

`environment` has Python run `install` in each process that is started with it. A run of an
entry is one call of it, with all that it calls in its thread until it returns.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT, OUT, ENTRIES = "WALKS_ROOT", "WALKS_OUT", "WALKS_ENTRIES"
FOLDERS = ("engine", "server", "media", "signaling")
LEFT_OUT = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>", "<module>")

Edges = dict[tuple[str, str], None]
"""Caller and function as `path:qualified name`, in the order in which they were first met; the
caller of the entry is empty."""


def environment(root: Path, out: Path, entries: Iterable[str]) -> dict[str, str]:
    """What a process is to be started with that notes runs of `entries` in `out`."""
    (out / "sitecustomize.py").write_text(
        f"import runpy\nrunpy.run_path({__file__!r})['install']()\n"
    )
    path = os.pathsep.join([str(out), str(root), str(root / "web")])
    return {ROOT: str(root), OUT: str(out), ENTRIES: json.dumps([*entries]), "PYTHONPATH": path}


def runs(out: Path) -> dict[str, list[Edges]]:
    """The runs of each entry, of all processes that have been noted in `out`."""
    found: dict[str, list[Edges]] = {}
    for file in sorted(out.glob("*.jsonl")):
        kinds: dict[int, Edges] = {}
        for line in file.read_text().splitlines():
            told = json.loads(line)
            if "edges" in told:
                kinds[told["kind"]] = dict.fromkeys((a, b) for a, b in told["edges"])
            found.setdefault(told["entry"], []).append(kinds[told["kind"]])
    return found


class _Thread(threading.local):
    def __init__(self) -> None:
        self.stack: list[str] = []
        """Our functions under way, from the outermost entry on."""
        self.entries: list[tuple[FrameType, str, Edges]] = []


class _Trace:
    def __init__(self, root: str, out: str, entries: Iterable[str]) -> None:
        self._folders = tuple(f"{root}{os.sep}{folder}{os.sep}" for folder in FOLDERS)
        self._root = root
        self._out = out
        self._entries = frozenset(entries)
        self._names: dict[CodeType, str] = {}
        self._thread = _Thread()
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            name = self._names[code] = self._name(code)
        if not name:
            return
        here = self._thread
        if event == "call":
            if name in self._entries:
                here.entries.append((frame, name, {}))
            if here.entries:
                caller = here.stack[-1] if here.stack else ""
                here.stack.append(name)
                for _, entry, edges in here.entries:
                    edges["" if name == entry else caller, name] = None
        elif event == "return" and here.entries:
            here.stack.pop()
            if here.entries[-1][0] is frame:
                _, entry, edges = here.entries.pop()
                self._write(entry, edges)

    def forked(self) -> None:
        self._kinds.clear()

    def _name(self, code: CodeType) -> str:
        if not code.co_filename.startswith(self._folders) or code.co_name in LEFT_OUT:
            return ""
        return f"{os.path.relpath(code.co_filename, self._root)}:{code.co_qualname}"

    def _write(self, entry: str, edges: Edges) -> None:
        kind: tuple[str, tuple[tuple[str, str], ...]] = entry, tuple(edges)
        with self._lock:
            told: dict[str, Any] = {"entry": entry}
            if kind not in self._kinds:
                self._kinds[kind] = len(self._kinds)
                told["edges"] = [*edges]
            told["kind"] = self._kinds[kind]
            with open(f"{self._out}/{os.getpid()}.jsonl", "a") as file:
                file.write(json.dumps(told) + "\n")


def install() -> None:
    """Trace this process and all that it forks."""
    entries = json.loads(os.environ[ENTRIES])
    trace = _Trace(os.environ[ROOT], os.environ[OUT], entries)
    os.register_at_fork(after_in_child=trace.forked)
    threading.setprofile(trace.note)
    sys.setprofile(trace.note)
