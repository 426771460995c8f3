"""The folder of the sockets between our processes: held by a lock, and cleared up after a crash."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "omnicall-"
MAX_TEMP_CHARS = 64
"""The address of a Unix socket has 103 characters at most, on some systems 107."""
KEEP_INTERVAL_S = 1.0
LOCK_TRIES = 3
"""Another start may clear up a folder before it is locked; some file systems know no locks."""


class SocketFolder:
    """A new folder of our own; below /tmp where TMPDIR is too long for the sockets' addresses.

    The lock (flock(2) on the folder itself) goes with this process, however it ends, so that the
    next start knows whose folder is left over. Cleaners of temporary files that follow
    tmpfiles.d(5) leave a locked folder alone; elsewhere it is created again.
    """

    def __init__(
        self,
        left: Path | None = None,
        lock: int | None = None,
        *,
        on_lock: Callable[[Path, int | None], None] = lambda path, lock: None,
    ) -> None:
        """`left`: that of a front whose place this one takes, and the descriptor that locks it.

        `on_lock` hears of each new folder, and the descriptor that locks it; None where the file
        system knows no locks.
        """
        self._on_lock = on_lock
        self._lock = lock
        if left is not None:
            self.path = left
            self._hold()
            return
        base = Path(tempfile.gettempdir())
        base = base if len(str(base)) <= MAX_TEMP_CHARS else Path("/tmp")
        clear_up(base)
        for _ in range(LOCK_TRIES):
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            self._lock = _lock(self.path)
            if self._lock is not None:
                break
        on_lock(self.path, self._lock)

    async def keep(self) -> None:
        """Create the folder again when it is deleted; until cancelled."""
        while True:
            await asyncio.sleep(KEEP_INTERVAL_S)
            try:
                self._hold()
            except OSError as error:
                log.error("the folder %s is gone and cannot be created again: %s", self.path, error)

    def _hold(self) -> None:
        """Create the folder unless it is there, and lock it unless it is locked. Raises OSError."""
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            if self._lock is None or os.fstat(self._lock).st_ino == self.path.stat().st_ino:
                return
        else:
            log.warning("the folder %s was deleted; it was created again", self.path)
        _unlock(self._lock)
        self._lock = _lock(self.path)
        self._on_lock(self.path, self._lock)

    def remove(self) -> None:
        """Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        _unlock(self._lock)
        self._lock = None


def clear_up(base: Path) -> None:
    """Remove the folders of servers of this user that were killed."""
    for path in base.glob(f"{PREFIX}*"):
        if not _is_ours(path):
            continue
        lock = _lock(path)
        if lock is not None:
            log.info("removing %s, left by a server that was killed", path)
            shutil.rmtree(path, ignore_errors=True)
            _unlock(lock)


def _is_ours(path: Path) -> bool:
    """Return whether `mkdtemp` of this user can have made it, and it holds nothing but sockets."""
    try:
        found = path.lstat()
        is_private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        if found.st_uid != os.geteuid() or not is_private:
            return False
        return all(stat.S_ISSOCK(entry.lstat().st_mode) for entry in path.iterdir())
    except OSError:
        return False


def _lock(path: Path) -> int | None:
    """A descriptor that holds the folder; None if another process holds it, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who cleared up may have removed it before the lock was ours.
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
