"""A call that is kept: both sides' sound and the words, where the operator has switched it on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec.structs import replace

from engine.ipc.protocol import INPUT_HZ, OUTPUT_HZ
from server.recordings import ABOUT, SOUNDS, WORDS, RecordedCall, RecordedLine, read_about
from signaling.session import events as ev
from signaling.session.items import FunctionCallItem, FunctionOutputItem, Item, MessageItem

FLUSH_S = 1.0
CLOSE_S = 5.0
"""How long a call's end waits for the disk."""
HEADER_BYTES = 44
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Of sound and words that the disk has not taken; beyond it the recording ends."""
MOST_BYTES = 2**32 - 1024
"""A WAV file cannot say a greater size."""
SLACK_SAMPLES = OUTPUT_HZ // 5
"""By so much an answer may be heard unevenly before the user's sound waits for it."""
DISK = ThreadPoolExecutor(1, thread_name_prefix="recordings")
"""Writes for all calls of the process: a disk that hangs costs no other work a thread."""
_SOUND = re.compile(rf"(?:{'|'.join(SOUNDS)})(?:-(\d{{1,4}}))?\.wav")

log = logging.getLogger(__name__)

Piece = tuple[int, bytes]
"""Where it begins, in samples, and int16 samples."""


class SoundTrack:
    """Owns one side's sound that is not yet written; a gap in it is silence."""

    def __init__(self, path: Path, hz: int) -> None:
        self.path = path
        self.hz = hz
        self.end = 0
        """How far it goes, in samples."""
        self._waiting: list[Piece] = []

    def add(self, at: int, pcm: bytes) -> int:
        """Add sound at this sample, or behind what there is; return where it begins."""
        at = max(at, self.end)
        self._waiting.append((at, pcm))
        self.end = at + len(pcm) // 2
        return at

    def growth(self, at: int, num_bytes: int) -> int:
        """By how many bytes sound at this sample makes the file longer, with a gap before it."""
        return 2 * max(0, at - self.end) + num_bytes

    def take(self) -> list[Piece]:
        """Return what is to be written, in order."""
        waiting, self._waiting = self._waiting, []
        return waiting


class CallRecording:
    """Owns the files of one call. Told of everything as a `signaling.session.core.Watcher`.

    Nothing here blocks the loop: `run` writes once a second, in a thread.
    """

    def __init__(
        self,
        folder: Path,
        call_id: str,
        max_bytes: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder`: this call's; `max_bytes`: of all of it."""
        self._folder = folder
        self._max_bytes = min(max_bytes, MOST_BYTES)
        self._wall_clock = wall_clock
        self._about = RecordedCall(call_id=call_id, began_at=wall_clock())
        self._has_news = True
        self._user, self._assistant = (
            SoundTrack(folder / f"{name}.wav", hz)
            for name, hz in zip(SOUNDS, (INPUT_HZ, OUTPUT_HZ), strict=True)
        )
        self._origin: int | None = None
        """Where the user's own count of samples was when the recording began."""
        self._came = 0
        """How far the user's sound has come by that count, from there,"""
        self._shift = 0
        """by how much it is put later, as the count stood still while an answer was heard,"""
        self._user_end = 0
        """and where it ends therefore."""
        self._lines: list[bytes] = []
        self._unheard: dict[int, tuple[int, bytearray]] = {}
        """Of answers: how many samples were heard, and the sound behind them."""
        self._num_bytes = 0
        self._waiting_bytes = 0
        self._is_placed = False
        self._writing = asyncio.Lock()
        self._job: tuple[asyncio.Future[Exception | None], int] | None = None
        """What is being written, and how many waiting bytes it takes."""

    # ------------------------------------------------------------------ sound

    def hear(self, pts: int, pcm: bytes) -> None:
        """Take the user's sound: 16 kHz, `pts` counts its samples, from anywhere on."""
        if self._origin is None:
            self._origin = pts
        pts -= self._origin
        # A count that leaps on did not stand still: sound was lost.
        self._shift -= min(self._shift, max(0, pts - self._came))
        self._came = pts + len(pcm) // 2
        self._user_end = self._came + self._shift
        self._add(self._user, pts + self._shift, pcm)

    def said(self, epoch: int, pcm: bytes) -> None:
        """Take sound of an answer, which is kept once it was heard."""
        self._unheard.setdefault(epoch, (0, bytearray()))[1].extend(pcm)

    def heard(self, epoch: int, samples: int, *, is_over: bool = False) -> None:
        """So much of an answer was heard; `is_over`: and no more will be."""
        before, sound = self._unheard.get(epoch, (0, bytearray()))
        pcm = bytes(sound[: max(0, samples - before) * 2])
        if pcm:
            self._add_answer(pcm)
        del sound[: len(pcm)]
        if is_over:
            self._unheard.pop(epoch, None)
        elif epoch in self._unheard:
            self._unheard[epoch] = (before + len(pcm) // 2, sound)

    def _add_answer(self, pcm: bytes) -> None:
        """It ends where the user's sound does, which is put later if that cannot be."""
        at = self._user_end * OUTPUT_HZ // INPUT_HZ - len(pcm) // 2
        behind = self._assistant.end - at
        if behind > SLACK_SAMPLES:
            self._shift += behind * INPUT_HZ // OUTPUT_HZ
            self._user_end = self._came + self._shift
        self._add(self._assistant, at, pcm)

    def _add(self, track: SoundTrack, at: int, pcm: bytes) -> None:
        if self._takes(track.growth(at, len(pcm)), len(pcm)):
            track.add(at, pcm)

    def _takes(self, grown: int, num_bytes: int) -> bool:
        """Count what makes the files so much longer; whether there is room for it."""
        if self._about.is_cut_short:
            return False
        self._num_bytes += grown
        self._waiting_bytes += num_bytes
        if self._num_bytes <= self._max_bytes and self._waiting_bytes <= MAX_WAITING_BYTES:
            return True
        self._waiting_bytes -= num_bytes
        self._cut_short()
        return False

    def _cut_short(self) -> None:
        if not self._about.is_cut_short:
            log.warning("the recording of call %s is cut short", self._about.call_id)
            self._about = replace(self._about, is_cut_short=True)
            self._has_news = True

    # ------------------------------------------------------------------ words

    def tell(self, event: ev.SessionEvent, asked_as: str | None = None) -> None:
        """As `signaling.session.core.Watcher`: keep the words."""
        match event:
            case ev.TranscriptCompleted(item_id=item_id, text=text):
                self._note(item_id, "user", text)
            case ev.ItemPlaced(item=item) | ev.OutputEnded(item=item):
                self.note(item)

    def note(self, item: Item | None) -> None:
        """Keep the words of an item as it stands."""
        match item:
            case MessageItem(role=role, parts=parts):
                texts = [part.text for part in parts if part.text]
                self._note(item.id, role, "\n".join(texts))
            case FunctionCallItem(name=name, arguments=arguments):
                self._note(item.id, "function", f"{name}({arguments})")
            case FunctionOutputItem(output=output):
                self._note(item.id, "function", output)

    def _note(
        self, item_id: str, role: Literal["user", "assistant", "system", "function"], text: str
    ) -> None:
        if not text:
            return
        # Half a surrogate pair is no character.
        text = text.encode(errors="replace").decode()
        at = round(self._wall_clock(), 2)
        told = RecordedLine(at=at, item_id=item_id, role=role, text=text)
        line = msgspec.json.encode(told) + b"\n"
        if self._takes(len(line), len(line)):
            self._lines.append(line)

    # ------------------------------------------------------------------ on disk

    async def run(self) -> None:
        """Write what has come, once a second, until cancelled."""
        while True:
            await self._flush()
            await asyncio.sleep(FLUSH_S)

    async def close(self, reason: str) -> None:
        """Write the rest and how the call ended, for a moment. Idempotent."""
        if self._about.ended_at is not None:
            return
        for epoch in list(self._unheard):
            self.heard(epoch, 0, is_over=True)
        self._about = replace(self._about, ended_at=self._wall_clock(), reason=reason)
        self._has_news = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._flush()
                if self._has_news:  # Something was not written: that is told at least.
                    await self._flush()
        if self._job is not None or self._has_news:
            log.warning("the end of call %s is not recorded in time", self._about.call_id)

    async def _flush(self) -> None:
        async with self._writing:
            await self._settle()
            if not self._is_placed:
                await self._place()
            tracks = [(track, track.take()) for track in (self._user, self._assistant)]
            lines, self._lines = self._lines, []
            about, self._has_news = self._about if self._has_news else None, False
            num_bytes = sum(len(pcm) for _, pieces in tracks for _, pcm in pieces)
            num_bytes += sum(map(len, lines))
            writing = asyncio.get_running_loop().run_in_executor(
                DISK, _tried_to_write, self._folder, tracks, lines, about
            )
            self._job = writing, num_bytes
            await self._settle()

    async def _settle(self) -> None:
        """Wait for what is being written; where that is cancelled it goes on, and whoever writes
        next waits for it."""
        if self._job is None:
            return
        writing, num_bytes = self._job
        await asyncio.wait([writing])
        self._job = None
        self._waiting_bytes -= num_bytes
        if (error := writing.result()) is not None:
            is_disk = isinstance(error, OSError)
            reason = error.strerror if isinstance(error, OSError) else "it cannot be written"
            log.warning(
                "a call cannot be recorded: %s", reason, exc_info=None if is_disk else error
            )
            self._cut_short()

    async def _place(self) -> None:
        """Go on where another media worker had recorded the call."""
        loop = asyncio.get_running_loop()
        before = await loop.run_in_executor(DISK, _found, self._folder)
        self._is_placed = True
        self._num_bytes += before.num_bytes
        if before.about is not None:
            self._about = replace(
                self._about,
                began_at=before.about.began_at,
                is_cut_short=self._about.is_cut_short or before.about.is_cut_short,
            )
        if before.number:
            for track, name in zip((self._user, self._assistant), SOUNDS, strict=True):
                track.path = self._folder / f"{name}-{before.number + 1}.wav"


def _tried_to_write(
    folder: Path,
    tracks: Sequence[tuple[SoundTrack, list[Piece]]],
    lines: Sequence[bytes],
    about: RecordedCall | None,
) -> Exception | None:
    """Return what kept it from being written, whatever that is: it ends the recording, no call."""
    try:
        _write(folder, tracks, lines, about)
    except Exception as error:  # noqa: BLE001 - the boundary
        return error
    return None


def _write(
    folder: Path,
    tracks: Sequence[tuple[SoundTrack, list[Piece]]],
    lines: Sequence[bytes],
    about: RecordedCall | None,
) -> None:
    """Write what is new of a call; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # That the call goes on comes first, so that the rest is not without it; that it is over last.
    if about is not None and about.ended_at is None:
        _write_about(folder, about)
    for track, pieces in tracks:
        if pieces:
            _write_sound(track, pieces)
    if lines:
        with _opened(folder / WORDS, "ab") as file:
            file.write(b"".join(lines))
    if about is not None and about.ended_at is not None:
        _write_about(folder, about)


def _write_about(folder: Path, about: RecordedCall) -> None:
    """Never half of it: a process may die at any time."""
    new = folder / f"{ABOUT}.new"
    with _opened(new, "wb") as file:
        file.write(msgspec.json.encode(about))
    new.replace(folder / ABOUT)


def _write_sound(track: SoundTrack, pieces: Sequence[Piece]) -> None:
    with _opened(track.path, "r+b" if track.path.exists() else "w+b") as file:
        for at, pcm in pieces:
            file.seek(HEADER_BYTES + 2 * at)
            file.write(pcm)
        # Right after each second, so that a process that dies leaves a whole file.
        file.seek(0)
        file.write(_header(track.hz, pieces[-1][0] + len(pieces[-1][1]) // 2))


def _header(hz: int, samples: int) -> bytes:
    """That of a WAV file: mono, 16 bits."""
    size = 2 * samples
    riff = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, hz, 2 * hz, 2, 16)
    return riff + form + struct.pack("<4sI", b"data", size)


def _opened(path: Path, mode: str) -> IO[bytes]:
    """For its owner alone."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


class Before(msgspec.Struct, frozen=True):
    """What other media workers have recorded of a call."""

    number: int
    """The last one's; 0: none has kept any sound."""
    num_bytes: int
    about: RecordedCall | None


def _found(folder: Path) -> Before:
    try:
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    except OSError:
        sizes = {}  # Usually there is none; else writing will tell.
    numbers = [int(sound[1] or 1) for name in sizes if (sound := _SOUND.fullmatch(name))]
    return Before(max(numbers, default=0), sum(sizes.values()), read_about(folder))
