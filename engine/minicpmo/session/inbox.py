"""The way of a session's messages to the model's thread: in order, files decoded on the way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from engine.base import Send
from engine.files.decoder import FileDecoder
from engine.files.items import read_files
from engine.ingest.messages import SoundHeard
from engine.ipc.protocol import (
    AudioIn,
    CancelResponse,
    CommitAudio,
    CreateResponse,
    DeleteItem,
    ForceListen,
    Heard,
    ImageIn,
    ItemIn,
    RequestRefused,
    SessionEnded,
    SessionMessage,
    SessionWarning,
)
from engine.minicpmo.session.item_decoding import ModelMessage, has_files, with_files

log = logging.getLogger(__name__)

IngestedMessage = SessionMessage | SoundHeard

MAX_HELD = 4_000
"""Messages behind an item that is being read: 64 MB of sound at most."""
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Of files that wait to be read."""


class Inbox:
    """Owns the messages of one session that wait for files to be decoded. On the event loop.

    What does not depend on the items, above all the sound, passes by those that wait.
    """

    def __init__(
        self, session: str, post: Callable[[ModelMessage], None], send: Send, decoder: FileDecoder
    ) -> None:
        self._session = session
        self._post = post
        self._send = send
        self._decoder = decoder
        self._held: deque[IngestedMessage] = deque()
        self._held_bytes = 0
        self._is_overloaded = False
        """The caller was told, and messages still wait."""
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def push(self, message: IngestedMessage) -> None:
        """Take the session's next message."""
        if self._is_closed:
            return
        if self._passes(message):
            self._forward(message)
            return
        if len(self._held) >= MAX_HELD:
            self._tell_dropped(message)
            return
        self._make_room(_num_bytes(message))
        self._held.append(message)
        self._held_bytes += _num_bytes(message)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._work(), name=f"read-{self._session}"
            )

    def close(self) -> None:
        """Drop what waits; a file that is being decoded is given up."""
        self._is_closed = True
        self._held.clear()
        if self._task is not None:
            self._task.cancel()

    def _make_room(self, size: int) -> None:
        """Drop the oldest files that nobody has begun to read."""
        while size and self._held_bytes + size > MAX_HELD_BYTES:
            waiting = (m for m in list(self._held)[1:] if _num_bytes(m))
            oldest = next(waiting, None)
            if oldest is None:
                return
            self._held.remove(oldest)
            self._held_bytes -= _num_bytes(oldest)
            if not self._is_overloaded:
                self._is_overloaded = True
                self._warn("overloaded", "too many files wait to be read; the oldest are dropped")

    def _passes(self, message: IngestedMessage) -> bool:
        match message:
            case ItemIn():
                return not self._held and not has_files(message)
            case ImageIn() | Heard() | CancelResponse() | ForceListen():
                return True
            case AudioIn() | SoundHeard():
                # Sound must not overtake a commit or a change of mode that is held back.
                return all(isinstance(held, ItemIn | DeleteItem) for held in self._held)
            case _:
                return not self._held

    def _forward(self, message: IngestedMessage) -> None:
        self._post(with_files(message, {}) if isinstance(message, ItemIn) else message)

    async def _work(self) -> None:
        try:
            while self._held:
                message = self._held[0]
                if isinstance(message, ItemIn) and has_files(message):
                    files = await read_files(message, self._decoder, self._send)
                    self._post(with_files(message, files))
                else:
                    self._forward(message)
                self._held.popleft()
                self._held_bytes -= _num_bytes(message)
            self._is_overloaded = False
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this session only
            log.exception("session %s failed", self._session)
            told = "internal error of the engine"
            self._send(SessionEnded(self._session, "failed", told))
        finally:
            self._task = None

    def _tell_dropped(self, message: IngestedMessage) -> None:
        told = "too much waits to be read; this was dropped"
        if isinstance(message, CreateResponse | CommitAudio):
            self._send(RequestRefused(self._session, message.request, "overloaded", told))
        elif not isinstance(message, AudioIn | SoundHeard):
            self._warn("overloaded", told)

    def _warn(self, code: str, message: str) -> None:
        self._send(SessionWarning(self._session, code, message))


def _num_bytes(message: IngestedMessage) -> int:
    if not isinstance(message, ItemIn):
        return 0
    return sum(len(getattr(part, "data", getattr(part, "pcm", b""))) for part in message.parts)
