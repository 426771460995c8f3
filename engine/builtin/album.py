"""The pictures in a session's messages: read one message after the other, kept as JPEG."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor

from engine.base import Send
from engine.builtin.history import History, Item
from engine.builtin.picture_facts import encode_jpeg
from engine.files.decoder import FileDecoder
from engine.files.file import PictureFile
from engine.files.items import read_files
from engine.ipc.protocol import (
    AudioPart,
    ImagePart,
    ItemIn,
    PartLeftOut,
    SessionWarning,
    TextPart,
    VideoPart,
)

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Of files not yet being read."""


class _Entry:
    """A message whose pictures are to be read."""

    def __init__(self, message: ItemIn, item: Item) -> None:
        self.message = message
        self.item = item
        self.num_bytes = sum(len(p.data) for p in message.parts if isinstance(p, ImagePart))
        self.is_read = asyncio.Event()


class Album:
    """Owns the messages of one session whose pictures wait. On the event loop."""

    def __init__(self, history: History, decoder: FileDecoder, eyes: Executor, send: Send) -> None:
        self._history = history
        self._decoder = decoder
        self._eyes = eyes
        self._send = send
        self._waiting: deque[_Entry] = deque()
        self._newest: _Entry | None = None
        self._came = asyncio.Event()
        self._is_overloaded = False

    def add(self, message: ItemIn) -> None:
        """Put a message into the conversation: its words at once, its pictures when read."""
        text = "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
        item = Item(message.item, message.role, text, unread=self._decline(message))
        if not self._history.add(item, message.after):
            told = f"there is no item {message.after!r}; {message.item!r} goes to the end"
            self._send(SessionWarning(message.session, "unknown_place", told))
        entry = _Entry(message, item)
        if entry.num_bytes:
            self._make_room(entry.num_bytes)
            self._waiting.append(entry)
            self._newest = entry
            self._came.set()

    async def settled(self) -> None:
        """Return when the pictures of all messages so far are read or left out."""
        if self._newest is not None:
            await self._newest.is_read.wait()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            self._came.clear()
            while self._waiting:
                entry = self._waiting.popleft()
                await self._read(entry)
                entry.is_read.set()
            self._is_overloaded = False
            await self._came.wait()

    async def _read(self, entry: _Entry) -> None:
        pictures = tuple(
            part if isinstance(part, ImagePart) else TextPart("") for part in entry.message.parts
        )
        message = ItemIn(entry.message.session, entry.message.item, entry.message.role, pictures)
        files = await read_files(message, self._decoder, self._send)
        loop = asyncio.get_running_loop()
        images = [
            await loop.run_in_executor(self._eyes, encode_jpeg, file.rgb)
            for file in files.values()
            if isinstance(file, PictureFile)
        ]
        if len(images) < sum(isinstance(part, ImagePart) for part in pictures):
            self._mark(entry.item)
        self._history.show(entry.item, images)

    def _make_room(self, size: int) -> None:
        while self._waiting and sum(e.num_bytes for e in self._waiting) + size > MAX_WAITING_BYTES:
            oldest = self._waiting.popleft()
            self._mark(oldest.item)
            oldest.is_read.set()
            if not self._is_overloaded:
                self._is_overloaded = True
                told = "too many pictures wait to be read; the oldest are dropped"
                self._send(SessionWarning(oldest.message.session, "overloaded", told))

    def _decline(self, message: ItemIn) -> str:
        """Tell of the parts that no cascade can take in; what they are, for people."""
        declined: dict[str, None] = {}
        for index, part in enumerate(message.parts):
            if isinstance(part, VideoPart | AudioPart):
                kind = "videos" if isinstance(part, VideoPart) else "recordings"
                declined[kind] = None
                reason = f"this engine cannot take in {kind}"
                self._send(PartLeftOut(message.session, message.item, index, reason))
        return " and ".join(declined)

    def _mark(self, item: Item) -> None:
        item.unread = f"{item.unread} and that picture" if item.unread else "that picture"
