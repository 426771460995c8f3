"""Logging of every process: to the terminal, and to a file if one is configured.

A log must never cost a call: when the file cannot be written (disk full), lines are counted and
dropped, and one line on the terminal says so. Nor may it fill the disk: at its bound the file
becomes `FILE.1`, in place of an older one, and a new one is begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import logging.handlers
import os
import stat
import sys

MB = 1_000_000


class _PatientFile(logging.handlers.WatchedFileHandler):
    """Appends to a file, follows its rotation, survives every `OSError` of it.

    All processes write to the same file; the process that finds it full moves it aside.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        super().__init__(path, delay=True, encoding="utf-8")
        self._max_bytes = max_bytes
        self.dropped = 0
        self._complained = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
            if self._max_bytes and self.stream is not None:
                self._bound(self.stream.fileno())
        except OSError:
            # Reopening the file failed; writing to it is handled in `handleError`.
            self.handleError(record)

    def _bound(self, descriptor: int) -> None:
        """Put the file aside when it is full, unless another process does so just now."""
        found = os.fstat(descriptor)
        if found.st_size < self._max_bytes or not stat.S_ISREG(found.st_mode):
            return
        # The name may be gone, or a new file's already: then this is the old one.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(found, os.stat(self.baseFilename)):
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.dropped += 1
        if self._complained:
            return
        self._complained = True
        terminal = logging.lastResort
        if terminal is not None:
            text = f"cannot write the log file {self.baseFilename}: {error}; lines are dropped"
            terminal.handle(logging.makeLogRecord({"msg": text, "levelno": logging.ERROR}))


def log_to(name: str, level: str, file: str = "", max_mb: int = 0) -> None:
    """Set up the root logger of this process, called `name` in every line.

    `max_mb` bounds the file, and with it the one before; 0: no bound.
    """
    formatter = logging.Formatter(f"%(asctime)s %(levelname)-7s {name} %(name)s: %(message)s")
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file:
        handlers.append(_PatientFile(file, max_mb * MB))
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    # Their INFO lines carry candidates and packets.
    for chatty in ("aioice", "aiortc", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
