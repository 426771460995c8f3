"""The one place where engines have callers' files read: processes of their own, few and bounded.

A file costs its own message at most: decoding shares neither the interpreter's lock nor the memory
of the engine, and a process that takes too long is ended.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from engine.files.file import File, Film, PictureFile, UnreadableError
from engine.files.process import DecoderProcess

PROCESSES = 2
"""Files that are read at once, over all sessions."""
WAIT_LIMIT_S = 60.0
"""For a process to be free. Sessions wait with one file each, so that all get their turn."""


class BusyError(UnreadableError):
    """Too many files are being read; there is no use in trying the next one of the message."""


class FileDecoder:
    """Owns the reading processes; they start with the first files. On the event loop."""

    def __init__(self, processes: int = PROCESSES) -> None:
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="files")
        """One for each process: they talk to it and carry its bytes."""
        self._all = [DecoderProcess() for _ in range(processes)]
        self._idle: asyncio.Queue[DecoderProcess] = asyncio.Queue()
        for process in self._all:
            self._idle.put_nowait(process)

    async def read(self, file: File) -> PictureFile | Film:
        """Raise `UnreadableError` if the file cannot be used; a recording becomes a `Film`."""
        try:
            async with asyncio.timeout(WAIT_LIMIT_S):
                process = await self._idle.get()
        except TimeoutError:
            raise BusyError(
                f"the {file.kind} was not read: too many files are being read; send it again later"
            ) from None
        work = self._threads.submit(process.read, file)
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: self._give_back(loop, process))
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            # Nobody wants it any more: the next file need not wait for it.
            process.kill()
            raise

    def _give_back(self, loop: asyncio.AbstractEventLoop, process: DecoderProcess) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._idle.put_nowait, process)

    def close(self) -> None:
        """End all processes; what is being read is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.kill()
