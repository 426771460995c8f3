"""Has each process of a server under test write down what its doors send, for `tests.told_events`.

Python runs a module of this name when it starts; `tests.serving` puts this folder on the path of a
server's processes. The product knows nothing of it.
"""

import os
import sys
from collections.abc import Callable
from functools import cache, wraps
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, TextIO

DOORS = {
    "signaling.realtime.door": "RealtimeDoor",
    "signaling.live.connection": "LiveConnection",
}
"""Whose second argument takes each event as text."""
FOLDER = os.environ.get("TOLD_EVENTS_FOLDER", "")


@cache
def written() -> TextIO:
    # By lines: what a process told that is killed is there.
    return open(f"{FOLDER}/{os.getpid()}", "a", buffering=1, encoding="utf-8")


def telling(init: Callable[..., None], name: str) -> Callable[..., None]:
    """The same `__init__`, of a door that writes down what it sends."""

    @wraps(init)
    def made(self: Any, core: Any, send: Callable[[str], object], *args: Any, **more: Any) -> None:
        kind = name if more.get("tells_extensions", True) else f"{name} alone"

        def tell(text: str) -> object:
            written().write(f"{kind}\t{text}\n")
            return send(text)

        init(self, core, tell, *args, **more)

    return made


class DoorFinder:
    """Finds the doors' modules where they are, and changes the doors."""

    @staticmethod
    def find_spec(name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target) if name in DOORS else None
        if found is None or found.loader is None:
            return None
        run = found.loader.exec_module

        def changed(module: ModuleType) -> None:
            run(module)
            door: Any = getattr(module, DOORS[name])
            door.__init__ = telling(door.__init__, DOORS[name])

        found.loader.exec_module = changed  # type: ignore[method-assign]
        return found


if FOLDER:
    sys.meta_path.insert(0, DoorFinder)
