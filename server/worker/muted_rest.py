"""A user who is muted: after a while a model that hears in units is given no more silence."""

from __future__ import annotations

import time
from collections.abc import Callable

from server.worker.commands import SessionCommands
from server.worker.conversation import Conversation
from server.worker.engine_settings import mode_of

REST_S = 6.0
"""Long enough to answer what was said before, and for a word of the model's own."""


class MutedRest:
    """Owns whether the engine rests; call `look` once a second.

    Each second of silence takes some of what such a model can remember. While it answers, it needs
    the seconds to speak in.
    """

    def __init__(
        self,
        conversation: Conversation,
        commands: SessionCommands,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._conversation = conversation
        self._commands = commands
        self._clock = clock
        self._since: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether no silence is given; not any more from the moment of unmuting."""
        is_due = self._since is not None and self._clock() - self._since >= REST_S
        return self._commands.is_muted and is_due

    def look(self) -> None:
        """Notice whether the user is muted and nothing is being said."""
        abilities = self._conversation.abilities
        in_units = abilities is not None and abilities.hears_in_units
        is_full = mode_of(self._conversation.settings) == "full_duplex"
        may_rest = in_units and is_full and self._commands.is_muted
        if not may_rest or self._conversation.responses.is_answering:
            self._since = None
        elif self._since is None:
            self._since = self._clock()
