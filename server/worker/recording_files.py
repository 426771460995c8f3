"""The files of a recorded call, as they are written: in a thread, a second of sound at a time."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from media.jpeg import small_jpeg
from server.recordings import (
    ABOUT,
    PICTURES,
    SEEN,
    SOUNDS,
    WORDS,
    RecordedCall,
    RecordedPicture,
    read_about,
)

HEADER_BYTES = 44
PICTURE_SIDE = 320
"""In pixels, the longer one."""
_SOUND = re.compile(rf"(?:{'|'.join(SOUNDS)})(?:-(\d{{1,4}}))?\.wav")

Piece = tuple[int, bytes]
"""Where it begins, in samples, and int16 samples."""


class Seen(NamedTuple):
    """A picture of the camera or of what is shared that is not yet written."""

    at: float
    """As `RecordedPicture.at`."""
    width: int
    height: int
    rgb: bytes


class News(NamedTuple):
    """What is to be written."""

    tracks: Sequence[tuple[SoundTrack, list[Piece]]]
    lines: Sequence[bytes]
    seen: Seen | None
    about: RecordedCall
    is_about_new: bool

    @property
    def num_bytes(self) -> int:
        """Of what waits without a bound of its own."""
        sound = sum(len(pcm) for _, pieces in self.tracks for _, pcm in pieces)
        return sound + sum(map(len, self.lines))


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


def tried_to_write(folder: Path, news: News) -> Exception | int:
    """Return what `_write` does, or what kept it from being written: that ends no call."""
    try:
        return _write(folder, news)
    except Exception as error:  # noqa: BLE001 - the boundary
        return error


def _write(folder: Path, news: News) -> int:
    """Write what is new of a call; how many bytes were not counted before. Raises OSError."""
    about, uncounted = news.about, 0
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # That the call goes on comes first, so that the rest is not without it; that it is over last.
    # Somebody may have deleted it.
    is_about_due = news.is_about_new or not (folder / ABOUT).exists()
    if is_about_due and about.ended_at is None:
        _write_about(folder, about)
    for track, pieces in news.tracks:
        if pieces:
            _write_sound(track, pieces)
    if news.lines:
        with _opened(folder / WORDS, "ab") as file:
            file.write(b"".join(news.lines))
    if news.seen is not None:
        uncounted = _write_picture(folder, news.seen)
    if is_about_due and about.ended_at is not None:
        _write_about(folder, about)
    return uncounted


def _write_picture(folder: Path, seen: Seen) -> int:
    jpeg = small_jpeg(seen.width, seen.height, seen.rgb, PICTURE_SIDE)
    with _opened(folder / PICTURES, "ab") as file:
        start = file.seek(0, os.SEEK_END)
        file.write(jpeg)
    told = RecordedPicture(at=round(seen.at, 2), start=start, size=len(jpeg))
    line = msgspec.json.encode(told) + b"\n"
    with _opened(folder / SEEN, "ab") as file:
        file.write(line)
    return len(jpeg) + len(line)


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


def found(folder: Path) -> Before:
    try:
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    except OSError:
        sizes = {}  # Usually there is none; else writing will tell.
    numbers = [int(sound[1] or 1) for name in sizes if (sound := _SOUND.fullmatch(name))]
    return Before(max(numbers, default=0), sum(sizes.values()), read_about(folder))
