"""What callers say, written down beside an engine that hears speech without doing so."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from engine.base import Progress, Send
from engine.ipc.protocol import MAX_TEXT_CHARS, InputTranscript

MAX_WAITING = 8
TOO_MUCH = "too much was said at once; this was not written down"

log = logging.getLogger(__name__)

WriteDown = Callable[[bytes, str], Awaitable[str]]
"""Give the words of an utterance: 16 kHz PCM, and a language's code, empty if none was named.
Raises `NotWrittenError` where there are none to be had."""


class NotWrittenError(Exception):
    """An utterance could not be written down; the text is for people."""


class Scribe(Protocol):
    """One per process. Nothing here blocks."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that it writes down; empty: any."""

    async def start(self, progress: Progress) -> None:
        """Raise `EngineError` with what is missing."""

    def for_session(self) -> WriteDown:
        """One caller's, so that it may get used to how they speak."""

    async def close(self) -> None: ...


class Unwritten(Struct, frozen=True):
    """An utterance that waits to be written down."""

    utterance: int
    pcm: bytes
    language: str


class SessionScribe:
    """Owns the utterances of one session that wait; they are written in order. On the loop."""

    def __init__(self, session: str, write_down: WriteDown, send: Send) -> None:
        self._session = session
        self._write_down = write_down
        self._send = send
        self._waiting: deque[Unwritten] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def take(self, speech: Unwritten) -> None:
        """Have an utterance written down, and tell its words; of too many the oldest is left out.

        Without sound it has no words.
        """
        if self._is_closed:
            return
        if len(self._waiting) == MAX_WAITING:
            self._tell(self._waiting.popleft().utterance, error=TOO_MUCH)
        self._waiting.append(speech)
        if self._task is None:
            name = f"scribe-{self._session}"
            self._task = asyncio.get_running_loop().create_task(self._work(), name=name)

    def close(self) -> None:
        """Give up what waits; nothing is told afterwards."""
        self._is_closed = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        while self._waiting:
            speech = self._waiting.popleft()
            try:
                text = ""
                if speech.pcm:
                    text = await self._write_down(speech.pcm, speech.language)
                self._tell(speech.utterance, text.strip()[:MAX_TEXT_CHARS])
            except NotWrittenError as error:
                self._tell(speech.utterance, error=str(error))
            except Exception:  # noqa: BLE001 - the boundary: a bug costs this utterance only
                log.exception("writing down an utterance of session %s failed", self._session)
                self._tell(speech.utterance, error="internal error of the engine")
        self._task = None

    def _tell(self, utterance: int, text: str = "", error: str = "") -> None:
        self._send(InputTranscript(self._session, utterance, text, True, error))
