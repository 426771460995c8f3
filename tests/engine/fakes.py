"""An engine without a model, for the tests of client and host."""

from __future__ import annotations

import asyncio

from engine.base import EngineError, Progress, Send
from engine.ingest.messages import SoundHeard
from engine.ipc.protocol import (
    VERSION,
    ItemIn,
    SessionConfig,
    SessionEnded,
    SessionMessage,
    TextPart,
    Welcome,
)


def welcome(slots: int = 2, kind: str = "fake") -> Welcome:
    return Welcome(
        version=VERSION,
        kind=kind,
        label="A fake engine",
        description="For tests.",
        slots=slots,
        modes=("full_duplex", "turn_based"),
        languages=("en",),
        voices=("one", "two"),
        video=True,
    )


class FakeSession:
    """Keeps what it is told. An item `bug` makes it fail, `bye` makes it end the session."""

    def __init__(self, session: str, slot: int, config: SessionConfig, send: Send) -> None:
        self.session = session
        self.slot = slot
        self.config = config
        self.send = send
        self.heard: list[SessionMessage | SoundHeard] = []
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.close_error: Exception | None = None

    def handle(self, message: SessionMessage) -> None:
        self.heard.append(message)
        if isinstance(message, ItemIn) and message.item == "bug":
            raise RuntimeError("a bug in the engine")
        if isinstance(message, ItemIn) and message.item == "bye":
            self.send(SessionEnded(self.session, "goodbye", "bye"))

    def take_sound(self, message: SoundHeard) -> None:
        self.heard.append(message)

    async def close(self) -> None:
        self.closing.set()
        await self.may_close.wait()
        if self.close_error is not None:
            raise self.close_error


class FakeEngine:
    """Implements `engine.base.Engine`; instructions `refuse` and `bug` are not served."""

    slots = 2

    def __init__(self) -> None:
        self.sessions: dict[str, FakeSession] = {}
        self.is_closed = False

    def welcome(self, slots: int) -> Welcome:
        return welcome(slots)

    async def start(self, progress: Progress) -> None:
        progress("faking")

    def open(self, session: str, slot: int, config: SessionConfig, send: Send) -> FakeSession:
        if config.instructions == "refuse":
            raise EngineError("this engine takes no such instructions")
        if config.instructions == "bug":
            raise RuntimeError("a bug in open")
        self.sessions[session] = FakeSession(session, slot, config, send)
        return self.sessions[session]

    def pending_ms(self) -> float:
        return 0.0

    async def close(self) -> None:
        self.is_closed = True


def item(session: str, name: str) -> ItemIn:
    return ItemIn(session, name, "user", (TextPart("hello"),))
