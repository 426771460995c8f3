"""A user who says nothing after an answer: in half duplex the assistant may then speak again."""

from __future__ import annotations

import time
from collections.abc import Callable

from server.worker.commands import SessionCommands
from server.worker.conversation import Conversation
from signaling.errors import ProtocolError
from signaling.session.core import ResponseWish
from signaling.settings import ServerVad


class SilenceWatch:
    """Asks for an answer when the user was silent for `idle_timeout_ms`; call `look` now and then.

    Silence counts from the end of an answer as it is heard, once for each answer.
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
        self._turns = 0
        self._answers = 0
        self._since: float | None = None

    def look(self) -> None:
        """Notice what has happened since the last look."""
        detection = self._conversation.settings.audio.input.turn_detection
        timeout_ms = detection.idle_timeout_ms if isinstance(detection, ServerVad) else None
        turns = self._conversation.turns
        is_busy = self._conversation.responses.is_answering or turns.is_speaking
        if timeout_ms is None or is_busy or turns.count != self._turns:
            self._turns, self._since = turns.count, None
            return
        if self._conversation.responses.answers_heard != self._answers:
            self._answers = self._conversation.responses.answers_heard
            self._since = self._clock()
        if self._since is None or self._clock() - self._since < timeout_ms / 1000:
            return
        self._since = None
        self._conversation.time_out(timeout_ms)
        self._turns = turns.count
        try:
            self._commands.create_response(ResponseWish())
        except ProtocolError:
            # The engine is behind or gone: it has other worries.
            return
