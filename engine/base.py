"""The interface of every engine: echo, builtin, the native model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from engine.ipc.protocol import FromEngine, SessionConfig, SessionMessage, Welcome
from engine.ipc.supervision import VoiceReport

Send = Callable[[FromEngine], None]
"""Put a message of a session on its link. Never blocks; call it on the event loop only."""

Progress = Callable[[str], None]
"""Report what a starting engine is doing."""


class EngineSession(Protocol):
    """One conversation inside an engine."""

    def handle(self, message: SessionMessage) -> None:
        """Take one message, in order, on the event loop; return within a millisecond."""

    async def close(self) -> None:
        """Stop everything of this session; nothing is sent afterwards."""


class Engine(Protocol):
    """One per process. Slots are handed out by the process, which owns the free list."""

    @property
    def slots(self) -> int:
        """Sessions that it serves at once: as many as configured, or fewer; final after `start`."""

    def welcome(self, slots: int) -> Welcome: ...

    async def start(self, progress: Progress) -> None:
        """Load and warm up; raise `EngineError` with a reason for people if that is impossible."""

    def open(self, session: str, slot: int, config: SessionConfig, send: Send) -> EngineSession:
        """Begin a conversation in row `slot`; raise `EngineError` if `config` cannot be served."""

    def pending_ms(self) -> float:
        """Return the longest sound of any session that waits to be processed.

        Asked once a second; raises `EngineError` where no session can be served any more, which
        ends the process: its supervisor starts a new one.
        """

    async def close(self) -> None: ...


TellVoice = Callable[[VoiceReport], object]
"""Called on the event loop, once for each voice that is to be kept."""


@runtime_checkable
class VoiceTaker(Protocol):
    """An engine that speaks with uploaded voices, where its `Welcome.takes_voices` says so."""

    def keep_voice(self, voice: str, sound: bytes, tell: TellVoice) -> None:
        """Prepare a voice of a WAV file when there is time; until then its id is not known."""

    def drop_voice(self, voice: str) -> None:
        """Give nobody this voice any more; sessions that speak with it keep it."""

    def default_voice(self, voice: str) -> None:
        """Give this voice to who names none; empty: the engine's own choice."""


@runtime_checkable
class BehindIngest(Protocol):
    """An engine that may want an ingest process in front of it.

    Its sessions are then `engine.ingest.messages.SoundTaker`, and tell `ListeningNeeds`.
    """

    @property
    def is_behind_ingest(self) -> bool:
        """Whether it wants one; final after `start`."""


class EngineError(Exception):
    """The engine cannot do what was asked; the text is for people."""
