"""What must not happen: tracebacks, dead processes, ended calls, leaks."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from tests.processes import Usage

ALARMS = re.compile(r"Traceback \(most|Exception ignored in|Fatal Python error")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_PREFIX = re.compile(r"^ *[|+]-*[|+]? ?")
"""What groups of exceptions are drawn with."""
MAX_SPARE_FDS = 6
"""Of an engine the pipes of its processes that read files, and the front's link for chats: they
come with the first that needs them, and stay."""
MAX_SPARE_THREADS = 4
MAX_SPARE_TASKS = 4


class Log:
    """Reads on in a log file and says what in it is alarming."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def skip(self) -> None:
        """What is there already is known."""
        self._position = self.size

    def alarms(self) -> list[str]:
        """One text for each kind of alarm since the last call."""
        with open(self.path, "rb") as file:
            file.seek(self._position)
            text = file.read().decode(errors="replace")
        self._position += len(text.encode())
        pieces = re.split(r"(?=Traceback \(most recent|Exception ignored in|Fatal Python)", text)
        found = [_summary(piece) for piece in pieces if ALARMS.match(piece)]
        return list(dict.fromkeys(found))


def _summary(piece: str) -> str:
    """The exception and the place where it was raised."""
    lines = [_PREFIX.sub("", line) for line in piece.split("\n")[1:]]
    raised = next((line for line in lines if line and not line.startswith(" ")), "")
    frames = _FRAME.findall("\n".join(lines[: lines.index(raised)]) if raised else piece)
    where = f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else "?"
    return f"traceback: {(raised or piece)[:160]} ({where})"


class Baseline(Struct, frozen=True):
    """What the server held before anything was done to it."""

    usage: list[Usage]
    tasks: dict[str, int]
    """By process name."""


def leaks(before: Baseline, after: Baseline) -> list[str]:
    """What is held now that was not before; recognisers come and go as they are needed."""
    found = []
    known = {one.pid: one for one in before.usage}
    for one in after.usage:
        old = known.get(one.pid)
        if old is None or one.role == "recogniser":
            continue
        if one.fds > old.fds + MAX_SPARE_FDS:
            found.append(f"{one.role}: {one.fds} fds, {old.fds} before")
        if one.threads > old.threads + MAX_SPARE_THREADS:
            found.append(f"{one.role}: {one.threads} threads, {old.threads} before")
    for name, tasks in after.tasks.items():
        if tasks > before.tasks.get(name, tasks) + MAX_SPARE_TASKS:
            found.append(f"{name}: {tasks} tasks, {before.tasks[name]} before")
    return found


def dead(before: Baseline, after: Baseline) -> list[str]:
    """Processes that are not there any more."""
    alive = {one.pid for one in after.usage}
    roles = ("front", "worker", "engine")
    return [
        f"the {one.role} died" for one in before.usage if one.pid not in alive and one.role in roles
    ]
