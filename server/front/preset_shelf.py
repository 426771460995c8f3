"""The presets as they are now, read again when a file changes, and their routes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import hdrs, web

from server.front import presets
from server.front.presets import BadPreset, PresetList, PresetsRead
from signaling.errors import ProtocolError
from signaling.http.auth import Authenticator, require
from signaling.http.resources import add_resource

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Files are looked at this often at most, when somebody asks."""


class PresetShelf:
    """Owns what was read of the presets."""

    def __init__(
        self,
        own: Path | None = None,
        shipped: Path = presets.SHIPPED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._shipped = shipped
        self._clock = clock
        self._read = PresetsRead()
        self._stamp: presets.Stamp | None = None
        self._looked_at: float | None = None
        self._lock = asyncio.Lock()

    @property
    def bad(self) -> tuple[BadPreset, ...]:
        """The files that are no presets, as of the last `refresh`."""
        return self._read.bad

    async def refresh(self) -> PresetsRead:
        """Read again what has changed; tell in the log which files are bad."""
        async with self._lock:
            now = self._clock()
            if self._looked_at is None or now - self._looked_at >= LOOK_S:
                self._looked_at = now
                await self._look()
            return self._read

    async def _look(self) -> None:
        folders = (self._shipped,) if self._own is None else (self._shipped, self._own)
        try:
            found = await asyncio.to_thread(presets.stamp, folders)
        except OSError:
            # A file went while they were counted: the next look finds it gone.
            return
        if found == self._stamp and self._stamp is not None:
            return
        self._stamp = found
        before = self._read.bad
        self._read = await asyncio.to_thread(presets.read, self._own, self._shipped)
        for one in self._read.bad:
            if one not in before:
                log.warning("preset %s is left out: %s", one.file, one.reason)

    # ------------------------------------------------------------------ routes

    def add_to(self, app: web.Application, auth: Authenticator) -> None:
        add_resource(app, "/api/presets", auth, {hdrs.METH_GET: self.list})
        path = "/api/presets/{preset_id}/media/{index}"
        add_resource(app, path, auth, {hdrs.METH_GET: self.media})

    async def list(self, request: web.Request) -> web.Response:
        """List the presets: ready-made sessions for each mode, in several languages."""
        require(request)
        found = await self.refresh()
        body = PresetList(presets=tuple(found.presets.values()))
        return web.Response(
            body=msgspec.json.encode(body),
            content_type="application/json",
            headers={hdrs.CACHE_CONTROL: "no-store"},
        )

    async def media(self, request: web.Request) -> web.Response:
        """Get a file that a preset's conversation begins with."""
        require(request)
        found = await self.refresh()
        preset_id, index = request.match_info["preset_id"], request.match_info["index"]
        paths = found.media.get(preset_id, ())
        if not index.isdecimal() or len(index) > 2 or int(index) >= len(paths):
            raise _no_media()
        told = found.presets[preset_id].media[int(index)]
        try:
            body = await asyncio.to_thread(_content, paths[int(index)])
        except OSError:
            raise _no_media() from None
        headers = {hdrs.CACHE_CONTROL: "no-cache"}
        return web.Response(body=body, content_type=told.content_type, headers=headers)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(presets.MAX_MEDIA_BYTES)


def _no_media() -> ProtocolError:
    return ProtocolError("There is no such file of a preset.", code="preset_not_found", status=404)
