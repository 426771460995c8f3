"""A call that is kept: both sides' sound and the words, where the operator has switched it on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec.structs import replace

from engine.ipc.protocol import INPUT_HZ, OUTPUT_HZ
from server.recordings import ABOUT, SOUNDS, WORDS, RecordedCall, RecordedLine
from signaling.session import events as ev
from signaling.session.items import FunctionCallItem, FunctionOutputItem, Item, MessageItem

FLUSH_S = 1.0
CLOSE_S = 5.0
"""How long a call's end waits for the disk."""
HEADER_BYTES = 44
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Of sound that the disk has not taken; beyond it the recording ends."""

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
        self._max_bytes = max_bytes
        self._wall_clock = wall_clock
        self._about = RecordedCall(call_id=call_id, began_at=wall_clock())
        self._has_news = True
        self._user, self._assistant = (
            SoundTrack(folder / f"{name}.wav", hz)
            for name, hz in zip(SOUNDS, (INPUT_HZ, OUTPUT_HZ), strict=True)
        )
        self._user_end = 0
        """How far the user's sound has come."""
        self._lines: list[RecordedLine] = []
        self._unheard: dict[int, tuple[int, bytearray]] = {}
        """Of answers: how many samples were heard, and the sound behind them."""
        self._num_bytes = 0
        self._waiting_bytes = 0
        self._is_placed = False
        self._writing = asyncio.Lock()

    # ------------------------------------------------------------------ sound

    def hear(self, pts: int, pcm: bytes) -> None:
        """Take the user's sound: 16 kHz, `pts` counts its samples."""
        self._user_end = pts + len(pcm) // 2
        if self._takes(len(pcm)):
            self._user.add(pts, pcm)

    def said(self, epoch: int, pcm: bytes) -> None:
        """Take sound of an answer, which is kept once it was heard."""
        self._unheard.setdefault(epoch, (0, bytearray()))[1].extend(pcm)

    def heard(self, epoch: int, samples: int, *, is_over: bool = False) -> None:
        """So much of an answer was heard; `is_over`: and no more will be."""
        before, sound = self._unheard.get(epoch, (0, bytearray()))
        pcm = bytes(sound[: max(0, samples - before) * 2])
        if pcm and self._takes(len(pcm)):
            self._assistant.add((self._user_end * OUTPUT_HZ // INPUT_HZ) - len(pcm) // 2, pcm)
        del sound[: len(pcm)]
        if is_over:
            self._unheard.pop(epoch, None)
        elif epoch in self._unheard:
            self._unheard[epoch] = (before + len(pcm) // 2, sound)

    def _takes(self, num_bytes: int) -> bool:
        """Count sound; whether there is room for it."""
        if self._about.is_cut_short:
            return False
        self._num_bytes += num_bytes
        self._waiting_bytes += num_bytes
        if self._num_bytes <= self._max_bytes and self._waiting_bytes <= MAX_WAITING_BYTES:
            return True
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
        if not text or self._about.is_cut_short:
            return
        self._num_bytes += len(text)
        at = round(self._wall_clock(), 2)
        self._lines.append(RecordedLine(at=at, item_id=item_id, role=role, text=text))

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

    async def _flush(self) -> None:
        async with self._writing:
            tracks = [(track, track.take()) for track in (self._user, self._assistant)]
            lines, self._lines = self._lines, []
            about, self._has_news = self._about if self._has_news else None, False
            written = sum(len(pcm) for _, pieces in tracks for _, pcm in pieces)
            try:
                if not self._is_placed:
                    await self._place()
                    about = about and self._about
                await asyncio.to_thread(_write, self._folder, tracks, lines, about)
            except OSError as error:
                log.warning("a call cannot be recorded: %s", error.strerror)
                self._cut_short()
            self._waiting_bytes -= written

    async def _place(self) -> None:
        """Go on where another media worker had recorded the call; raises OSError."""
        before, began_at = await asyncio.to_thread(_found, self._folder)
        if began_at is not None:
            self._about = replace(self._about, began_at=began_at)
            for track, name in zip((self._user, self._assistant), SOUNDS, strict=True):
                track.path = self._folder / f"{name}-{before + 1}.wav"
        self._is_placed = True


def _write(
    folder: Path,
    tracks: Sequence[tuple[SoundTrack, list[Piece]]],
    lines: Sequence[RecordedLine],
    about: RecordedCall | None,
) -> None:
    """Write what is new of a call; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for track, pieces in tracks:
        if pieces:
            _write_sound(track, pieces)
    if lines:
        with _opened(folder / WORDS, "ab") as file:
            file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    if about is not None:
        with _opened(folder / ABOUT, "wb") as file:
            file.write(msgspec.json.encode(about))


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


def _found(folder: Path) -> tuple[int, float | None]:
    """How many media workers have recorded this call before, and since when; raises OSError."""
    try:
        began_at = msgspec.json.decode((folder / ABOUT).read_bytes(), type=RecordedCall).began_at
    except (FileNotFoundError, msgspec.DecodeError):
        return 0, None
    return len(list(folder.glob(f"{SOUNDS[0]}*.wav"))) or 1, began_at
