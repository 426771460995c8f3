"""Admission of uploads: which may run, which wait, which stalled one is dropped. Front.

An upload is in memory about three times while it is decoded, so few run at once. What waits is not
read: it holds nothing here. A caller has half of the places at most; a call one. When others wait,
the upload that has stood still longest is dropped; one that keeps to `STALL_S` is not.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from signaling.awake import AwakeClock
from signaling.errors import NoFreeSlot, ProtocolError
from signaling.http.bodies import BodyProgress

MAX_UPLOADS = 4
SHARE = 2
MAX_WAITING = 64
MAX_WAITING_OF_CALL = 4
UPLOAD_S = 120.0
"""For the whole body, besides the least progress that `bodies.STEP_S` asks for."""
WAIT_S = 30.0
STALL_S = 2.0
"""Longer than this for one step of the body is standing still."""
CHECK_S = 0.25


class Upload:
    """One upload, waiting or under way."""

    def __init__(self, call_id: str, caller: str, clock: Callable[[], float]) -> None:
        self.call_id = call_id
        self.caller = caller
        self.progress = BodyProgress(UPLOAD_S, clock=clock)
        self.is_received = False
        """The body is complete; what is left is our own work."""


class UploadLine:
    """Owns the places and the line before them."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or AwakeClock(CHECK_S)
        self._active: list[Upload] = []
        self._waiting: list[Upload] = []
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def place(self, call_id: str, caller: str) -> AsyncIterator[Upload]:
        """Wait for a place and hold it.

        Raises ProtocolError 429 when the call has too many waiting, NoFreeSlot when the line is
        full or does not move.
        """
        upload = Upload(call_id, caller, self._clock)
        self._join(upload)
        try:
            await self._turn(upload)
            yield upload
        finally:
            for uploads in (self._waiting, self._active):
                if upload in uploads:
                    uploads.remove(upload)
            self._changed.set()
            self._changed = asyncio.Event()

    def _join(self, upload: Upload) -> None:
        of_call = sum(other.call_id == upload.call_id for other in self._waiting)
        if of_call >= MAX_WAITING_OF_CALL:
            raise ProtocolError(
                f"{of_call} items of this call wait to be uploaded.",
                code="upload_in_progress",
                status=429,
            )
        if len(self._waiting) >= MAX_WAITING:
            raise NoFreeSlot(STALL_S, "Too many uploads wait.")
        self._waiting.append(upload)

    async def _turn(self, upload: Upload) -> None:
        give_up_at = self._clock() + WAIT_S
        while not self._enter(upload):
            if self._clock() >= give_up_at:
                raise NoFreeSlot(STALL_S, "Too many uploads are under way.")
            try:
                # Who stands still does not say so: look again.
                async with asyncio.timeout(CHECK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _enter(self, upload: Upload) -> bool:
        """Return whether it has a place now, dropping a stalled upload in its way."""
        if in_the_way := self._in_the_way_of(upload):
            _drop_stalled(in_the_way, self._clock() - STALL_S)
            return False
        if upload is not next(u for u in self._waiting if not self._in_the_way_of(u)):
            return False
        self._waiting.remove(upload)
        self._active.append(upload)
        return True

    def _in_the_way_of(self, upload: Upload) -> list[Upload]:
        """Of which uploads one has to end first."""
        of_call = [other for other in self._active if other.call_id == upload.call_id]
        of_caller = [other for other in self._active if other.caller == upload.caller]
        if of_call or len(of_caller) >= SHARE:
            return of_call or of_caller
        return self._active if len(self._active) >= MAX_UPLOADS else []


def _drop_stalled(uploads: list[Upload], since: float) -> None:
    """Drop the one that has stood still longest, unless one is on its way out already."""
    if not any(upload.progress.is_dropped for upload in uploads):
        stalled = [u for u in uploads if not u.is_received and u.progress.step_at < since]
        if stalled:
            min(stalled, key=lambda u: u.progress.step_at).progress.drop()
