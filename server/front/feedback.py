"""What callers think of answers: thumbs up or down with a word, kept in the data folder. Front."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from server.recordings import FEEDBACK
from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.http.auth import Authenticator, RateLimited
from signaling.http.bodies import read_body, read_json
from signaling.http.resources import add_resource
from signaling.ratelimit import KeyedBuckets

PATH = "/v1/realtime/calls/{call_id}/feedback"
MAX_BODY_BYTES = 16 * 1024
MAX_DAY_BYTES = 64 * 1024 * 1024
PER_SECOND, BURST = 0.5, 20.0


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller thinks of an answer; a later one about the same item counts instead."""

    item_id: Annotated[str, Meta(min_length=1, max_length=128)]
    """Of the answer."""
    rating: Literal["up", "down"] | None
    """null takes it back."""
    comment: Annotated[str, Meta(max_length=2000)] = ""


class KeptFeedback(msgspec.Struct, frozen=True):
    """A line of `feedback/DAY.jsonl`."""

    at: float
    """Unix seconds."""
    call_id: str
    item_id: str
    rating: Literal["up", "down"] | None
    comment: str


class CallsKnown(Protocol):
    """Tells calls that are open or ended lately from others; implemented by the front."""

    def is_open(self, call_id: str) -> bool: ...

    def why_closed(self, call_id: str) -> ProtocolError: ...


class FeedbackBox:
    """Owns the files: one a day (UTC), a JSON object a line."""

    def __init__(
        self,
        folder: Path,
        calls: CallsKnown,
        recordings: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`recordings`: beside a call's recording below it ratings are kept, too."""
        self._recordings = recordings
        self._folder = folder
        self._calls = calls
        self._clock = clock
        self._wall_clock = wall_clock
        self._given = KeyedBuckets(PER_SECOND, BURST)
        self._disk = asyncio.Lock()

    def add_to(self, app: web.Application, auth: Authenticator) -> None:
        add_resource(app, PATH, auth, {hdrs.METH_POST: self.give})

    async def give(self, request: web.Request) -> web.Response:
        """Say what was good or bad of an answer; without a key, by the id of a call that is open
        or ended in the last five minutes.
        """
        call_id = request.match_info["call_id"]
        if not self._calls.is_open(call_id):
            ended = self._calls.why_closed(call_id)
            if ended.status == 404:
                raise ended
        wait_s = self._given.take(call_id, self._clock())
        if wait_s > 0:
            raise RateLimited(wait_s, "ratings of this call")
        body = await read_body(request, MAX_BODY_BYTES, None)
        given = convert(read_json(body, "body"), Feedback)
        kept = KeptFeedback(
            self._wall_clock(), call_id, given.item_id, given.rating, given.comment.strip()
        )
        async with self._disk:
            try:
                await asyncio.to_thread(_append, self._folder, kept)
                if self._recordings is not None:
                    await asyncio.to_thread(_append_beside, self._recordings / call_id, kept)
            except OSError:
                raise ProtocolError(
                    "Ratings cannot be kept at the moment.",
                    code="storage_failed",
                    type="server_error",
                    status=500,
                ) from None
        return web.Response(status=204)


def _append(folder: Path, kept: KeptFeedback) -> None:
    """Write a line; raises OSError, also where a day's file is full."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{datetime.fromtimestamp(kept.at, UTC):%Y-%m-%d}.jsonl"
    with path.open("ab") as file:
        if file.tell() > MAX_DAY_BYTES:
            raise OSError("the file of this day is full")
        path.chmod(0o600)
        file.write(msgspec.json.encode(kept) + b"\n")


def _append_beside(recording: Path, kept: KeptFeedback) -> None:
    """Write a line beside a call's recording, if there is one; raises OSError."""
    # It may be deleted meanwhile: without a folder nothing is written.
    with contextlib.suppress(FileNotFoundError), (recording / FEEDBACK).open("ab") as file:
        (recording / FEEDBACK).chmod(0o600)
        file.write(msgspec.json.encode(kept) + b"\n")
