"""The connections that watch one session: its client's own, and those that joined it."""

from __future__ import annotations

from signaling.errors import ProtocolError
from signaling.session.core import Asker, Watcher
from signaling.session.events import Refusal, SessionEvent


class Audience:
    """Owns who is told."""

    def __init__(self) -> None:
        self._watchers: list[Watcher] = []

    def __len__(self) -> int:
        return len(self._watchers)

    def add(self, watcher: Watcher) -> None:
        if watcher not in self._watchers:
            self._watchers.append(watcher)

    def remove(self, watcher: Watcher) -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def emit(self, event: SessionEvent, by: Asker | None = None) -> None:
        """Tell everybody; who asked for it hears its own name for that."""
        for watcher in tuple(self._watchers):
            asked_as = by.event_id if by is not None and by.watcher is watcher else None
            watcher.tell(event, asked_as)

    def refuse(self, error: ProtocolError, by: Asker | None) -> None:
        """Tell who asked, if still there, that it came to nothing."""
        if by is not None and by.watcher in self._watchers:
            error.event_id = by.event_id
            by.watcher.tell(Refusal(error=error), by.event_id)
