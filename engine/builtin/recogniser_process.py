"""The engine's end of one recogniser process, and whether that process is stuck."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable

from engine.builtin.recogniser_link import (
    Failed,
    Finish,
    FromRecogniser,
    Result,
    ToRecogniser,
    Unpacker,
    from_recogniser,
    pack,
)
from engine.builtin.utterance import SpokenUtterance

READ_BYTES = 65_536
STILL_S = 10.0
"""A process with work that used no CPU for so long will never do it. A starved one uses some."""
SPIN_S = 20.0
"""CPU seconds without any word: a second of sound takes a fraction of one."""
COMING_S = 30.0
"""A fork takes 0.1 s."""


class RecogniserProcess:
    """Owned by the pool: its socket, its utterance and the evidence against it."""

    def __init__(self) -> None:
        self.utterance: SpokenUtterance | None = None
        self.pid = 0
        """0 while it is still to come."""
        self.started_s = asyncio.get_running_loop().time()
        self.idle_since_s = self.started_s
        self._writer: asyncio.StreamWriter | None = None
        self._cpu_s = self._still_s = self._spun_s = 0.0
        self._is_finishing = False
        """Its answer to a `Finish` is still to come, whether or not anybody waits for it."""

    @property
    def is_free(self) -> bool:
        return self.pid != 0 and self.utterance is None and not self._is_finishing

    def send(self, message: ToRecogniser) -> None:
        # Unbounded by itself; an utterance sends no more than its window holds.
        if self._writer is not None and not self._writer.is_closing():
            self._is_finishing = self._is_finishing or isinstance(message, Finish)
            self._writer.write(pack(message))

    def kill(self) -> None:
        """End it; its death is noticed like any other."""
        if self.pid and self._writer is not None and not self._writer.is_closing():
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def run(self, link: socket.socket, take: Callable[[FromRecogniser], None]) -> None:
        """Pass on what the process says until it ends."""
        reader, self._writer = await asyncio.open_unix_connection(sock=link)
        unpacker = Unpacker()
        try:
            while data := await reader.read(READ_BYTES):
                self._acquit()
                for body in unpacker.push(data):
                    message = from_recogniser.decode(body)
                    if isinstance(message, Result | Failed):
                        self._is_finishing = False
                    take(message)
        except ConnectionError:
            pass  # The process died with data under way; that is an end like any other.
        finally:
            self._writer.close()

    def is_stuck(self, elapsed_s: float, cpu_s: float) -> bool:
        """Judge it, `elapsed_s` after the last time, by the CPU seconds it has used in its life.

        How long its work takes is no evidence: on a busy machine that may be any time.
        """
        used_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        is_owed = self.utterance is not None and self.utterance.is_owed
        if self.pid and not is_owed and not self._is_finishing:
            self._acquit()
            return False
        self._still_s = 0.0 if used_s > 0 else self._still_s + elapsed_s
        self._spun_s += used_s
        if not self.pid:
            return self._still_s >= COMING_S
        return self._still_s >= STILL_S or self._spun_s >= SPIN_S

    def _acquit(self) -> None:
        self._still_s = self._spun_s = 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, to 10 ms; 0 if it is gone or yet to come."""
    if not pid:
        return 0.0
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in brackets, may hold anything.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
