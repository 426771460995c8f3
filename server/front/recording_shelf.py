"""/api/recordings: the calls that were recorded, to be listed, fetched and deleted. Front."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import msgspec
from aiohttp import hdrs, web

from server.front.feedback import CallsKnown, KeptFeedback
from server.recordings import (
    ABOUT,
    FEEDBACK,
    PICTURES,
    SEEN,
    SOUNDS,
    UNREADABLE,
    WORDS,
    read_about,
)
from signaling.errors import ProtocolError
from signaling.http.auth import Authenticator, require
from signaling.http.resources import add_resource

PATH = "/api/recordings"
SWEEP_S = 60.0
DAY_S = 86_400.0
LATELY_S = 120.0
"""A recording that has no end goes on for as long after it was written to, though its call is not
known: a media worker that outlives the front may still be about to tell of it."""
MAX_LISTED = 500
"""Newest ones."""
TYPES = {
    ".wav": "audio/wav",
    ".jsonl": "application/jsonl",
    ".json": "application/json",
    ".mjpeg": "video/x-motion-jpeg",
}
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SOUND = rf"(?:{'|'.join(SOUNDS)})(?:-\d{{1,4}})?\.wav"
_NAME = re.compile("|".join([_SOUND, *map(re.escape, (ABOUT, WORDS, FEEDBACK, PICTURES, SEEN))]))

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class RecordingFile(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a recording."""

    name: str
    bytes: int


class RecordingEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded call."""

    call_id: str
    began_at: float
    """Unix seconds."""
    ended_at: float | None
    """null: it goes on, or its media worker died."""
    reason: str
    is_open: bool
    is_cut_short: bool
    """More was said than one recording may hold, or the disk did not take it."""
    up: int
    """Answers that the caller found good,"""
    down: int
    """and bad."""
    files: tuple[RecordingFile, ...]


class RecordingList(msgspec.Struct, frozen=True, kw_only=True):
    """The newest recordings first."""

    enabled: bool
    """Whether calls are recorded at present."""
    recordings: tuple[RecordingEntry, ...]


class RecordingShelf:
    """Owns the folder: recordings that are too old, or too much, go; never those of open calls."""

    def __init__(
        self,
        folder: Path,
        calls: CallsKnown,
        *,
        enabled: bool,
        max_bytes: int,
        max_days: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._calls = calls
        self._enabled = enabled
        self._max_bytes = max_bytes
        self._max_days = max_days
        self._wall_clock = wall_clock
        # Of its own: a disk that hangs costs no other work a thread.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="recordings")

    def add_to(self, app: web.Application, auth: Authenticator) -> None:
        get, delete = hdrs.METH_GET, hdrs.METH_DELETE
        add_resource(app, PATH, auth, {get: self.list})
        add_resource(app, f"{PATH}/{{call_id}}", auth, {delete: self.delete})
        add_resource(app, f"{PATH}/{{call_id}}/{{name}}", auth, {get: self.file})

    async def run(self) -> None:
        """Keep within the bounds, until cancelled.

        Also where no calls are recorded any more: speech is not kept for longer than was said.
        """
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - the boundary: a disk that fails ends no server
                log.exception("the recordings cannot be kept within their bounds")
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Delete what is too old, and the oldest of what is too much."""
        found = await self._in_thread(_sizes, self._folder)
        total = sum(size for _, _, size in found)
        for began_at, call_id, size in found:
            is_old = self._wall_clock() - began_at > self._max_days * DAY_S
            is_due = is_old or total > self._max_bytes
            if is_due and not await self._goes_on(call_id) and await self._removed(call_id):
                total -= size

    # ------------------------------------------------------------------ routes

    async def list(self, request: web.Request) -> web.Response:
        """List the recorded calls, the newest first; for keys of the role admin."""
        require(request, "admin")
        try:
            found = await self._in_thread(_entries, self._folder)
        except OSError as error:
            log.warning("the recordings cannot be listed: %s", error.strerror)
            raise _failed("Recordings cannot be listed at the moment.") from None
        told = RecordingList(
            enabled=self._enabled,
            recordings=tuple(
                msgspec.structs.replace(one, is_open=self._calls.is_open(one.call_id))
                for one in found
            ),
        )
        return web.Response(
            body=msgspec.json.encode(told),
            content_type="application/json",
            headers={hdrs.CACHE_CONTROL: "no-store"},
        )

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Fetch a part of a recording by its name in the list; for keys of the role admin."""
        require(request, "admin")
        name = request.match_info["name"]
        path = self._place(request) / name
        if _NAME.fullmatch(name) is None or not await self._in_thread(path.is_file):
            raise _unknown()
        headers = {
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"',
            hdrs.CONTENT_TYPE: TYPES[path.suffix],
        }
        return web.FileResponse(path, headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete all of a recording, once its call is over; for keys of the role admin."""
        require(request, "admin")
        place = self._place(request)
        if await self._goes_on(place.name):
            told = "This call goes on: its recording can be deleted when it is over."
            raise ProtocolError(told, code="call_open", status=409)
        if not await self._in_thread(place.is_dir):
            raise _unknown()
        if not await self._removed(place.name):
            raise _failed("This recording cannot be deleted at the moment.")
        return web.Response(status=204)

    async def _goes_on(self, call_id: str) -> bool:
        if self._calls.is_open(call_id):
            return True
        written_at = await self._in_thread(_written_at, self._folder / call_id)
        return written_at is not None and self._wall_clock() - written_at < LATELY_S

    async def _removed(self, call_id: str) -> bool:
        return await self._in_thread(_remove, self._folder / call_id)

    async def _in_thread(self, work: Callable[[*Ts], T], *given: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *given)

    def _place(self, request: web.Request) -> Path:
        call_id = request.match_info["call_id"]
        if _ID.fullmatch(call_id) is None:
            raise _unknown()
        return self._folder / call_id


def _unknown() -> ProtocolError:
    return ProtocolError("There is no such recording.", code="recording_not_found", status=404)


def _failed(told: str) -> ProtocolError:
    return ProtocolError(told, code="storage_failed", type="server_error", status=500)


def _sizes(folder: Path) -> list[tuple[float, str, int]]:
    """When each recording began, its call and its bytes on disk; the oldest first."""
    found = []
    for place in _places(folder):
        try:
            files = [path.stat() for path in place.iterdir() if path.is_file()]
            began_at = min((one.st_mtime for one in files), default=place.stat().st_mtime)
        except OSError:
            continue  # It has just been deleted, or cannot be read.
        about = read_about(place)
        found.append(
            (
                began_at if about is None else about.began_at,
                place.name,
                sum(one.st_blocks * 512 for one in files),
            )
        )
    return sorted(found)


def _written_at(place: Path) -> float | None:
    """When a recording was last written to that has no end; None: it has one, or is none."""
    about = read_about(place)
    if about is None or about.ended_at is not None:
        return None
    try:
        return max(path.stat().st_mtime for path in place.iterdir())
    except (OSError, ValueError):
        return None  # It has just been deleted, or cannot be read.


def _entries(folder: Path) -> list[RecordingEntry]:
    """What is listed, the newest first; raises OSError if the folder cannot be read."""
    found = []
    for place in _places(folder):
        about = read_about(place)
        if about is None:
            continue
        up, down = _ratings(place)
        try:
            files = tuple(
                RecordingFile(name=path.name, bytes=path.stat().st_size)
                for path in sorted(place.iterdir())
                if _NAME.fullmatch(path.name)
            )
        except OSError:
            continue  # As above.
        found.append(
            RecordingEntry(
                call_id=place.name,
                began_at=about.began_at,
                ended_at=about.ended_at,
                reason=about.reason,
                is_open=False,
                is_cut_short=about.is_cut_short,
                up=up,
                down=down,
                files=files,
            )
        )
    return sorted(found, key=lambda one: one.began_at, reverse=True)[:MAX_LISTED]


def _places(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and _ID.fullmatch(path.name)]


def _ratings(place: Path) -> tuple[int, int]:
    """How many answers were found good and bad; of each the newest word counts."""
    ratings: dict[str, str | None] = {}
    try:
        for line in (place / FEEDBACK).read_bytes().splitlines():
            kept = msgspec.json.decode(line, type=KeptFeedback)
            ratings[kept.item_id] = kept.rating
    except UNREADABLE:
        pass
    given = list(ratings.values())
    return given.count("up"), given.count("down")


def _remove(place: Path) -> bool:
    """Whether it is gone, whoever deleted it."""
    try:
        shutil.rmtree(place)
    except OSError as error:
        if place.exists():
            log.warning("recording %s cannot be deleted: %s", place.name, error.strerror)
            return False
    return True
