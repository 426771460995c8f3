"""The engine's end of a process that reads files: asks, waits only so long, starts it anew."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.files.file import File, Film, Kind, PictureFile, UnreadableError
from engine.files.worker import LENGTH_BYTES, Answer, Request, encode_head

log = logging.getLogger(__name__)

START_LIMIT_S = 30.0
READ_LIMITS_S: dict[Kind, float] = {"picture": 60.0, "video": 90.0, "recording": 60.0}
PIECE_BYTES = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
MODULE = "engine.files.worker"


class DecoderProcess:
    """Owns the process. Used by one thread at a time, but for `kill`."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def read(self, file: File) -> PictureFile | Film:
        """Raise `UnreadableError` with a reason for people. Blocks."""
        try:
            answer, arrays = self._ask(file)
        except TimeoutError:
            self.kill()
            raise UnreadableError(
                f"the {file.kind} cannot be read: it takes longer than "
                f"{READ_LIMITS_S[file.kind]:g} s"
            ) from None
        except (OSError, EOFError) as error:
            if not self._is_killed:
                log.warning("a process that reads files has ended: %r", error)
            self.kill()
            raise UnreadableError(
                f"the {file.kind} cannot be read: the file is damaged or needs too much memory"
            ) from None
        if answer.error:
            raise UnreadableError(answer.error)
        if file.kind == "picture":
            return PictureFile(arrays[0], answer.remark)
        sound = arrays.pop() if answer.has_sound else None
        return Film(tuple(arrays), answer.shown, sound, answer.remark)

    def kill(self) -> None:
        """End it at once; may be called from any thread."""
        self._is_killed = True
        child = self._child
        if child is not None:
            child.kill()

    def _ask(self, file: File) -> tuple[Answer, list[NDArray[Any]]]:
        pipes = self._running()
        pipes.until = time.monotonic() + READ_LIMITS_S[file.kind]
        pipes.write(encode_head(Request(file.kind, file.pixels, len(file.data))))
        pipes.write(file.data)
        head = pipes.read(int.from_bytes(pipes.read(LENGTH_BYTES), "big"))
        answer = msgspec.json.decode(head, type=Answer)
        # It has read the file: what is left is a copy.
        pipes.until = time.monotonic() + START_LIMIT_S
        arrays = [
            np.frombuffer(pipes.read(array.num_bytes), array.dtype).reshape(array.shape)
            for array in answer.arrays
        ]
        return answer, arrays

    def _running(self) -> _Pipes:
        child = self._child
        if child is None or self._is_killed or child.poll() is not None:
            if child is not None:
                _bury(child)
            child = self._child = _start()
            self._is_killed = False
            pipes = _Pipes(child)
            pipes.until = time.monotonic() + START_LIMIT_S
            pipes.read(1)
            return pipes
        return _Pipes(child)


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-m", MODULE, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **threads, "PYTHONPATH": path},
        bufsize=0,
    )


def _bury(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    child.wait()


class _Pipes:
    """A process's input and output, each with a time by which it must go on."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None and child.stdout is not None
        self._in, self._out = child.stdin.fileno(), child.stdout.fileno()
        self.until = 0.0
        os.set_blocking(self._in, False)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(self._in, select.POLLOUT)
            rest = rest[os.write(self._in, rest[:PIECE_BYTES]) :]

    def read(self, count: int) -> bytearray:
        """Exactly so many bytes; raises `EOFError` if the process ends before."""
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            self._wait(self._out, select.POLLIN)
            got = os.readv(self._out, [rest[:PIECE_BYTES]])
            if not got:
                raise EOFError("end of its answers")
            rest = rest[got:]
        return data

    def _wait(self, pipe: int, event: int) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        left_s = self.until - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TimeoutError
