"""What connections have asked the engine for, until it says what became of it."""

from __future__ import annotations

from server.worker.responses import Asked
from signaling.session.core import Asker, ContextKind
from signaling.session.ids import new_id

MAX_OPEN = 64


class OpenRequests:
    """Owned by the conversation; of too many the oldest are forgotten."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}
        self._kinds: dict[str, ContextKind] = {}

    def note(self, asked: Asked) -> str:
        """Keep what a client asks for; the name by which the engine answers."""
        name = new_id("ask")
        self._asked[name] = asked
        if len(self._asked) > MAX_OPEN:
            self.take(next(iter(self._asked)))
        return name

    def note_append(self, kind: ContextKind, by: Asker | None) -> str:
        """Keep what a client appends to the model's context; the name by which it is answered."""
        name = self.note(Asked(by))
        self._kinds[name] = kind
        return name

    def take(self, name: str) -> Asked | None:
        """What was asked by this name, which is answered now."""
        self._kinds.pop(name, None)
        return self._asked.pop(name, None)

    def take_append(self, name: str) -> tuple[ContextKind, Asker | None]:
        """What was appended by this name, and by whom."""
        kind = self._kinds.get(name, "thinking")
        asked = self.take(name)
        return kind, None if asked is None else asked.by
