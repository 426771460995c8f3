"""What the processes of a server hold, read from /proc: memory, threads, file descriptors."""

from __future__ import annotations

import os
import re
from pathlib import Path

from msgspec import Struct

ROLES = {
    "engine.process": "engine",
    "server.worker": "worker",
    "recogniser_worker": "recogniser",
    "run.py": "front",
    "tests.server.front.frail": "front",
    "tests.server.front.buggy": "front",
}


class Usage(Struct, frozen=True):
    """One process at one moment."""

    role: str
    pid: int
    rss_kib: int
    threads: int
    fds: int
    file_kib: int = 0
    """Of `rss_kib` what is mapped from files."""


def descendants(pid: int) -> list[int]:
    """`pid` and all below it, parents first; empty if it is gone."""
    if not Path(f"/proc/{pid}").exists():
        return []
    found = [pid]
    for child in _below(pid):
        found += descendants(child)
    return found


def _below(pid: int) -> list[int]:
    return [
        int(child)
        for task in _names(f"/proc/{pid}/task")
        for child in _read(f"/proc/{pid}/task/{task}/children").split()
    ]


def role(pid: int) -> str:
    """Which part of the server it is, by its command line; the keeper's is the front's."""
    command = _read(f"/proc/{pid}/cmdline")
    found = next((name for part, name in ROLES.items() if part in command), "other")
    if found == "front" and any(_read(f"/proc/{one}/cmdline") == command for one in _below(pid)):
        return "keeper"
    return found


def usage(pid: int) -> Usage | None:
    """None if the process is gone."""
    status = _read(f"/proc/{pid}/status")
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    threads = re.search(r"Threads:\s+(\d+)", status)
    if resident is None or threads is None:
        return None
    fds = len(_names(f"/proc/{pid}/fd"))
    # Not of every kernel.
    mapped = re.search(r"RssFile:\s+(\d+)", status)
    file_kib = 0 if mapped is None else int(mapped[1])
    return Usage(role(pid), pid, int(resident[1]), int(threads[1]), fds, file_kib)


def table(pid: int) -> list[Usage]:
    """All processes of the server that `pid` started."""
    return [found for one in descendants(pid) if (found := usage(one)) is not None]


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def of_role(pid: int, wanted: str) -> list[int]:
    return [one for one in descendants(pid) if role(one) == wanted]


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
