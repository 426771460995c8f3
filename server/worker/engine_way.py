"""The way of one session to its engine, and what the engine is still to be told."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from engine.ipc import protocol as p

MAX_OWED = 256
"""Of an engine that takes nothing for so long the link is given up before."""


class Line(Protocol):
    """An open line: `engine.ipc.engine_client.EngineSessionLink`."""

    def send(self, message: p.Message) -> bool: ...


class EngineWay:
    """Owned by the session. What is asked for is refused when the engine does not keep up; what
    has happened already, settings and what was heard or cut, is told later and in its order."""

    def __init__(self) -> None:
        self._line: Line | None = None
        self._owed: deque[p.UpdateSession | p.Heard | p.CancelResponse] = deque(maxlen=MAX_OWED)

    def open(self, line: Line) -> None:
        """From now on there is an engine."""
        self._line = line

    def close(self) -> None:
        """Nobody is told any more."""
        self._line = None
        self._owed.clear()

    def send(self, message: p.Message) -> bool:
        """Return False if there is no engine, or if it does not keep up and is not told later."""
        if self._line is None:
            return False
        if self.catch_up() and self._line.send(message):
            return True
        if not isinstance(message, p.UpdateSession | p.Heard | p.CancelResponse):
            return False
        self._owed.append(message)
        return True

    def catch_up(self) -> bool:
        """Tell what is owed, as far as it is taken; return whether nothing is owed any more."""
        while self._owed and self._line is not None and self._line.send(self._owed[0]):
            self._owed.popleft()
        return not self._owed
