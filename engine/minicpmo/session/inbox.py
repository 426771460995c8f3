"""The way of a session's messages to the model's thread: in order, files decoded on the way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from engine.base import Send, SessionMessage
from engine.ipc.protocol import (
    AudioIn,
    CancelResponse,
    DeleteItem,
    ForceListen,
    Heard,
    ImageIn,
    ItemIn,
    SessionEnded,
    SessionWarning,
)
from engine.minicpmo.session.item_decoding import ModelMessage, has_files, read_item

log = logging.getLogger(__name__)

MAX_HELD = 4_000
"""Messages behind an item that is being read, above a minute of sound."""
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Of files that wait to be read."""


class Intake:
    """Owns the messages of one session that wait for files to be decoded. On the event loop.

    What does not depend on the items, above all the sound, passes by those that wait.
    """

    def __init__(
        self, session: str, post: Callable[[ModelMessage], None], send: Send, threads: Executor
    ) -> None:
        self._session = session
        self._post = post
        self._send = send
        self._threads = threads
        self._held: deque[SessionMessage] = deque()
        self._held_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def push(self, message: SessionMessage) -> None:
        """Take the session's next message."""
        if self._is_closed:
            return
        if self._passes(message):
            self._forward(message)
            return
        size = _num_bytes(message)
        if len(self._held) >= MAX_HELD or (size and self._held_bytes + size > MAX_HELD_BYTES):
            if not isinstance(message, AudioIn):
                self._warn("overloaded", "too much waits to be read; this was dropped")
            return
        self._held.append(message)
        self._held_bytes += size
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._work(), name=f"read-{self._session}"
            )

    def close(self) -> None:
        """Drop what waits; a file that is being decoded is given up soon."""
        self._is_closed = True
        self._held.clear()
        if self._task is not None:
            self._task.cancel()

    def _passes(self, message: SessionMessage) -> bool:
        match message:
            case ItemIn():
                return not self._held and not has_files(message)
            case ImageIn() | Heard() | CancelResponse() | ForceListen():
                return True
            case AudioIn():
                # Sound before a commit, or in another mode, is not sound after it.
                return all(isinstance(held, ItemIn | DeleteItem) for held in self._held)
            case _:
                return not self._held

    def _forward(self, message: SessionMessage) -> None:
        self._post(read_item(message) if isinstance(message, ItemIn) else message)

    async def _work(self) -> None:
        try:
            while self._held:
                message = self._held[0]
                if isinstance(message, ItemIn) and has_files(message):
                    await self._read(message)
                else:
                    self._forward(message)
                self._held.popleft()
                self._held_bytes -= _num_bytes(message)
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this session only
            log.exception("session %s failed", self._session)
            told = "internal error of the engine"
            self._send(SessionEnded(self._session, "failed", told))
        finally:
            self._task = None

    async def _read(self, message: ItemIn) -> None:
        loop = asyncio.get_running_loop()
        try:
            item = await loop.run_in_executor(
                self._threads, read_item, message, lambda: not self._is_closed
            )
        except ValueError as error:
            self._warn("bad_item", f"a message was left out: {error}")
            return
        for remark in item.remarks:
            self._warn("video_cut", remark)
        self._post(item)

    def _warn(self, code: str, message: str) -> None:
        self._send(SessionWarning(self._session, code, message))


def _num_bytes(message: SessionMessage) -> int:
    if not isinstance(message, ItemIn):
        return 0
    return sum(len(getattr(part, "data", getattr(part, "pcm", b""))) for part in message.parts)
