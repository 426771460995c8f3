"""The files in a session's messages, read in order: pictures become JPEG, recordings words."""

from __future__ import annotations

import asyncio
from collections import deque

from engine.base import Send
from engine.builtin.history import History, Item
from engine.builtin.interfaces import Parts
from engine.builtin.picture_facts import encode_jpeg
from engine.builtin.recordings import hear
from engine.files.file import Film, PictureFile
from engine.files.items import read_files
from engine.ipc.protocol import (
    INPUT_HZ,
    AudioPart,
    ImagePart,
    ItemIn,
    ItemPart,
    PartLeftOut,
    PartTranscript,
    SessionWarning,
    TextPart,
    VideoPart,
)

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Of files not yet being read."""


class _Entry:
    """A message whose files are to be read."""

    def __init__(self, message: ItemIn, item: Item) -> None:
        self.message = message
        self.item = item
        self.texts = [part.text if isinstance(part, TextPart) else "" for part in message.parts]
        """What each part says."""
        self.num_bytes = sum(map(_file_bytes, message.parts))
        self.is_read = asyncio.Event()


class Album:
    """Owns the messages of one session whose files wait. On the event loop."""

    def __init__(self, history: History, parts: Parts, send: Send) -> None:
        self._history = history
        self._parts = parts
        self._send = send
        self._waiting: deque[_Entry] = deque()
        self._newest: _Entry | None = None
        self._came = asyncio.Event()
        self._is_overloaded = False

    def add(self, message: ItemIn) -> None:
        """Put a message into the conversation: its words at once, its files when read."""
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
        """Return when the files of all messages so far are read or left out."""
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
        wanted = tuple(part if _file_bytes(part) else TextPart("") for part in entry.message.parts)
        message = ItemIn(entry.message.session, entry.message.item, entry.message.role, wanted)
        files = await read_files(message, self._parts.decoder, self._send)
        loop = asyncio.get_running_loop()
        images = []
        for index, part in enumerate(wanted):
            match files.get(index):
                case PictureFile(rgb=rgb):
                    image = await loop.run_in_executor(self._parts.eyes, encode_jpeg, rgb)
                    images.append(image)
                case Film() as film:
                    await self._hear(entry, index, film)
                case None if _file_bytes(part):
                    _mark(entry.item, part)
        entry.item.text = "\n".join(text for text in entry.texts if text)
        self._history.show(entry.item, images)

    async def _hear(self, entry: _Entry, index: int, film: Film) -> None:
        assert film.sound is not None, "a recording has sound"
        message = entry.message
        heard = await hear(film.sound, self._parts.recogniser)
        if heard.error:
            self._send(PartLeftOut(message.session, message.item, index, heard.error))
            _mark(entry.item, message.parts[index])
            return
        entry.texts[index] = heard.text
        duration_ms = len(film.sound) * 1000 // INPUT_HZ
        self._send(
            PartTranscript(message.session, message.item, index, heard.segments, duration_ms)
        )

    def _make_room(self, size: int) -> None:
        while self._waiting and sum(e.num_bytes for e in self._waiting) + size > MAX_WAITING_BYTES:
            oldest = self._waiting.popleft()
            for part in filter(_file_bytes, oldest.message.parts):
                _mark(oldest.item, part)
            oldest.is_read.set()
            if not self._is_overloaded:
                self._is_overloaded = True
                told = "too many files wait to be read; the oldest are dropped"
                self._send(SessionWarning(oldest.message.session, "overloaded", told))

    def _decline(self, message: ItemIn) -> str:
        """Tell of the parts that no cascade can take in; what they are, for people."""
        declined = ""
        for index, part in enumerate(message.parts):
            if isinstance(part, VideoPart):
                declined = "videos"
                reason = "this engine cannot take in videos"
                self._send(PartLeftOut(message.session, message.item, index, reason))
        return declined


def _file_bytes(part: ItemPart) -> int:
    """The size of a file that can be taken in."""
    match part:
        case ImagePart(data=data):
            return len(data)
        case AudioPart(pcm=pcm):
            return len(pcm)
        case _:
            return 0


def _mark(item: Item, part: ItemPart) -> None:
    """Note that a part was not understood."""
    what = "that recording" if isinstance(part, AudioPart) else "that picture"
    if what not in item.unread:
        item.unread = f"{item.unread} and {what}" if item.unread else what
