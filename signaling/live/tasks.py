"""Tasks that the model hands to the application. Media worker.

An engine that delegates says so itself. To one that calls functions a function `delegate` is
offered: its call is answered at once, so that the model can say that it will take a moment, and
what the application finds out is appended.
"""

from typing import Any

from signaling.errors import ProtocolError
from signaling.session.items import FunctionCallItem, FunctionCallOutput

NAME = "delegate"
TOOL: dict[str, Any] = {
    "type": "function",
    "name": NAME,
    "description": (
        "Hand a task to the application that this conversation belongs to: anything that you "
        "cannot know or do yourself, such as looking something up or changing something. It has "
        "heard the conversation. Its result comes later by itself; go on talking meanwhile."
    ),
    "parameters": {
        "type": "object",
        "properties": {"task": {"type": "string", "description": "What is to be done."}},
        "required": ["task"],
    },
}
TAKEN = "The application works on it. Say so in a few words; its result will follow by itself."
MAX_KNOWN = 1_000


class ClientTasks:
    """Owns the tasks of one session; `now` counts monotonic seconds."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._acknowledge_at: float | None = None

    def add(self, delegation_id: str) -> None:
        self._known[delegation_id] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def call(self, item: FunctionCallItem, delay_ms: int, now: float) -> FunctionCallOutput:
        """Take a call of `delegate`; its output."""
        self.add(item.id)
        self._acknowledge_at = now + delay_ms / 1000
        return FunctionCallOutput(call_id=item.call_id, output=TAKEN)

    def check(self, delegation_id: str | None) -> None:
        """Raise `ProtocolError` for a task that nobody was given."""
        if delegation_id is not None and delegation_id not in self._known:
            raise ProtocolError(
                f"delegation_id: there is no delegation {delegation_id[:80]!r} to the client.",
                code="invalid_delegation_id",
                param="delegation_id",
            )

    def answered(self) -> None:
        """Drop an acknowledgement that waits: the application has said something."""
        self._acknowledge_at = None

    def owes_acknowledgement(self, now: float) -> bool:
        """Return whether the model is to say by now that it takes a moment; until `answered`."""
        return self._acknowledge_at is not None and now >= self._acknowledge_at
