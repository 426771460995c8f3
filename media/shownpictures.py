"""A camera's pictures that come as JPEG files in messages, the newest passed on now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor

from media.frames import EncodedFrame
from media.picture import CameraPicture, Decoded, PictureDecoder

EARLY = 0.75
"""Part of the interval after which a picture is taken: senders are not exact."""


class ShownPictures:
    """Owns the newest file that is not read yet; reads one at a time, `max_fps` a second.

    `sink(picture)` is called on the event loop. What no picture comes of is counted.
    """

    def __init__(
        self,
        sink: Callable[[CameraPicture], None],
        *,
        executor: Executor,
        max_fps: float,
        max_side: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.received = 0
        self.unreadable = 0
        self._sink = sink
        self._executor = executor
        self._interval_s = EARLY / max_fps
        self._clock = clock
        self._decoder = PictureDecoder(max_side)
        self._newest: bytes | None = None
        self._job: asyncio.Future[Decoded] | None = None
        self._next_at = clock()
        self._is_closed = False

    def show(self, file: bytes) -> None:
        """Take a JPEG file; it takes the place of one that waits."""
        self.received += 1
        self._newest = file
        self.tick()

    def tick(self) -> None:
        """Read the newest file if it is time; call it now and then."""
        now = self._clock()
        if self._newest is None or self._job is not None or now < self._next_at or self._is_closed:
            return
        self._next_at = now + self._interval_s
        frame, self._newest = EncodedFrame("mjpeg", 0, True, self._newest), None
        loop = asyncio.get_running_loop()
        self._job = loop.run_in_executor(self._executor, self._decoder.decode, [frame], 0)
        self._job.add_done_callback(self._read)

    def close(self) -> None:
        """Pass nothing on from now on."""
        self._is_closed = True
        self._newest = None

    def _read(self, job: asyncio.Future[Decoded]) -> None:
        self._job = None
        if self._is_closed or job.cancelled():
            return
        picture = None if job.exception() is not None else job.result().picture
        if picture is None:
            self.unreadable += 1
        else:
            self._sink(picture)
