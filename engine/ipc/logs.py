"""Logging of every process: to the terminal, and to a file if one is configured.

A log must never cost a call: when the file cannot be written (disk full), lines are counted and
dropped, and one line on the terminal says so.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys


class _PatientFile(logging.handlers.WatchedFileHandler):
    """Appends to a file, follows its rotation, survives every `OSError` of it."""

    def __init__(self, path: str) -> None:
        super().__init__(path, delay=True, encoding="utf-8")
        self.dropped = 0
        self._complained = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            # Reopening the file failed; writing to it is handled in `handleError`.
            self.handleError(record)

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


def log_to(name: str, level: str, file: str = "") -> None:
    """Set up the root logger of this process, called `name` in every line."""
    formatter = logging.Formatter(f"%(asctime)s %(levelname)-7s {name} %(name)s: %(message)s")
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file:
        handlers.append(_PatientFile(file))
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    # Their INFO lines carry candidates and packets.
    for chatty in ("aioice", "aiortc", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
