"""The way of one session to its engine, and what the engine is still to be told."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from msgspec.structs import replace

from engine.ipc import protocol as p

SHIFT = 1_000_000
"""More responses, or utterances, than a line ever gives."""
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
        self._shift = 0
        """What is added to the numbers of the engine, which begin anew with each line."""
        self._lines = 0
        self._owed: deque[p.UpdateSession | p.Heard | p.CancelResponse] = deque(maxlen=MAX_OWED)

    def open(self, line: Line) -> None:
        """From now on there is an engine."""
        self._line = line
        self._shift = self._lines * SHIFT
        self._lines += 1

    def close(self) -> None:
        """Nobody is told any more."""
        self._line = None
        self._owed.clear()

    def send(self, message: p.Message) -> bool:
        """Return False if there is no engine, or if it does not keep up and is not told later."""
        if self._line is None:
            return False
        if self._shift and isinstance(message, p.Heard | p.CancelResponse):
            if message.epoch <= self._shift:
                # Of a response that an earlier line gave: nobody remembers it.
                return True
            message = replace(message, epoch=message.epoch - self._shift)
        if self.catch_up() and self._line.send(message):
            return True
        if not isinstance(message, p.UpdateSession | p.Heard | p.CancelResponse):
            return False
        self._owed.append(message)
        return True

    def numbered(self, message: p.FromEngine) -> p.FromEngine:
        """A message of the engine with numbers that no earlier line of this session gave."""
        if not self._shift:
            return message
        numbers = {
            name: number + self._shift
            for name in ("epoch", "utterance")
            if (number := getattr(message, name, 0))
        }
        return replace(message, **numbers) if numbers else message

    def catch_up(self) -> bool:
        """Tell what is owed, as far as it is taken; return whether nothing is owed any more."""
        while self._owed and self._line is not None and self._line.send(self._owed[0]):
            self._owed.popleft()
        return not self._owed
