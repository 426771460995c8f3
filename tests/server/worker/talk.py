"""A conversation with the real playout and the real request handling, and nothing around it.

Every event that is emitted is checked against OpenAI's own types on the way.
"""

from __future__ import annotations

import json
from typing import Any

from engine.ipc import protocol as p
from media.playout import Playout
from server.worker.audience import Audience
from server.worker.commands import SessionCommands
from server.worker.conversation import Conversation
from server.worker.offered_modes import MODES
from signaling.realtime.door import RealtimeDoor
from signaling.session.core import Abilities
from signaling.settings import SessionSettings
from tests.openai_events import checked_event
from tests.waiting import Clock

SESSION = "rtc_test"
PTIME_SAMPLES = p.OUTPUT_HZ // 50


def samples(ms: int) -> int:
    return ms * p.OUTPUT_HZ // 1000


def sound(ms: int, value: int = 1000) -> bytes:
    return value.to_bytes(2, "little", signed=True) * samples(ms)


class Talk:
    """`hear` is what the engine says, `ask` what the client sends, `play` lets time pass."""

    def __init__(
        self, *, has_engine: bool = True, modes: tuple[p.Mode, ...] = MODES, **settings: Any
    ) -> None:
        self.events: list[dict[str, Any]] = []
        """Decoded from what goes out on the data channel."""
        self.to_engine: list[p.Message] = []
        self.has_engine = has_engine
        self.clock = Clock()
        audience = Audience()
        self.conversation = Conversation(
            SessionSettings().merge(settings),
            audience=audience,
            to_engine=self._to_engine,
            session_id=SESSION,
            modes=modes,
            clock=self.clock,
        )
        self.playout = Playout(listener=self.conversation.responses)
        self.conversation.responses.use(self.playout)
        self.conversation.abilities = Abilities() if has_engine else None
        self.commands = SessionCommands(self.conversation, to_engine=self._to_engine)
        self.door = RealtimeDoor(self.commands, self._take)
        audience.add(self.door)

    def _take(self, text: str) -> None:
        self.events.append(checked_event(text))

    def _to_engine(self, message: p.Message) -> bool:
        if self.has_engine:
            self.to_engine.append(message)
        return self.has_engine

    def hear(self, *messages: p.FromEngine) -> None:
        for message in messages:
            self.conversation.hear(message)

    def ask(self, event: dict[str, Any] | str) -> None:
        self.door.receive(event if isinstance(event, str) else json.dumps(event))

    def play(self, ms: int) -> list[bytes | None]:
        """What the outbound track takes in `ms`."""
        return [self.playout.take() for _ in range(ms // 20)]

    def answer(self, epoch: int, words: dict[int, str], ms: int, *, last: bool = True) -> None:
        """The engine answers with `ms` of sound and with words, each due at its ms."""
        self.hear(p.ResponseStarted(SESSION, epoch, "speech", epoch))
        for at_ms, text in words.items():
            self.hear(p.TextOut(SESSION, epoch, samples(at_ms), text))
        for at_ms in range(0, ms, 100):
            chunk = min(100, ms - at_ms)
            is_last = last and at_ms + chunk == ms
            self.hear(p.AudioOut(SESSION, epoch, samples(at_ms), sound(chunk), is_last))
        if last:
            self.done(epoch)

    def done(self, epoch: int, status: Any = "completed", reason: str = "") -> None:
        self.hear(p.ResponseDone(SESSION, epoch, status, reason, 11, 7))

    # ------------------------------------------------------------------ looking

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        found = self.of(kind)
        assert len(found) == 1, (kind, self.types)
        return found[0]

    def sent(self, kind: type) -> list[Any]:
        return [message for message in self.to_engine if isinstance(message, kind)]

    def take_types(self) -> list[str]:
        """The events since the last call."""
        types = self.types
        self.events.clear()
        return types
