"""How hooks are set on instances of aiortc and aioice: only where the name still exists."""

from collections.abc import Coroutine
from typing import Any


def replace(owner: Any, name: str, method: Any) -> Any:
    """Replace a method on one instance; return what was there. Raises RuntimeError without one."""
    original = getattr(owner, name, None)
    if original is None:
        raise RuntimeError(f"{type(owner).__name__} has no {name} any more")
    setattr(owner, name, method)
    return original


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run what is a coroutine by its form only. Raises RuntimeError if it waits for anything."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError(f"{work} waits")
