"""The process that reads callers' files: one at a time, from standard input to standard output.

What a file can do at worst, it does here: need too much memory, take too long, crash a library.
A request and an answer are each a head, with its length in front, and bytes.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.files.file import Film, Kind, PictureFile, UnreadableError
from engine.ipc.lifeline import OOM_RECOGNISER, die_with_parent, go_before_parent

MEMORY_BYTES = 2 * 1024**3
"""Of its own, beside the libraries; a file that needs more is refused."""
CPU_SECONDS = 60
"""For one file: even a process that nobody waits for ends."""
NICENESS = 5
"""Whoever speaks comes before files."""
LENGTH_BYTES = 4
READY = b"\0"
"""First of all answers: the process is there."""


class Request(Struct, frozen=True):
    kind: Kind
    pixels: int
    """That may be kept of a picture."""
    num_bytes: int
    """Of the file, which follows."""


class Array(Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


class Answer(Struct, frozen=True):
    error: str = ""
    """Why the file cannot be used, for people; there is nothing else then."""
    remark: str = ""
    """What of the file is missing, for people."""
    shown: tuple[int, ...] = ()
    """Of a film, the picture of each second."""
    has_sound: bool = False
    """The last array is sound."""
    arrays: tuple[Array, ...] = ()
    """Their bytes follow."""


def encode_head(head: Request | Answer) -> bytes:
    encoded = msgspec.json.encode(head)
    return len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded


def read_file(kind: Kind, data: bytes, pixels: int) -> PictureFile | Film:
    """Raise `UnreadableError` with a reason for people. Blocks."""
    # FFmpeg and Pillow are loaded where they are used, and no sooner.
    if kind == "picture":
        from engine.files.picture import read_picture

        return read_picture(data, pixels)
    from engine.files.film import read_film, read_recording

    return read_film(data, pixels) if kind == "video" else read_recording(data)


def answer_to(kind: Kind, data: bytes, pixels: int) -> tuple[Answer, list[NDArray[Any]]]:
    """What is wrong with a file becomes the answer's error."""
    try:
        read = read_file(kind, data, pixels)
    except UnreadableError as error:
        return Answer(error=str(error)), []
    except MemoryError:
        return Answer(error=f"the {kind} needs too much memory to be read"), []
    shown: tuple[int, ...] = ()
    has_sound = False
    if isinstance(read, PictureFile):
        arrays: list[NDArray[Any]] = [read.rgb]
    else:
        arrays, shown = list(read.pictures), read.shown
        if read.sound is not None:
            arrays.append(read.sound)
            has_sound = True
    described = tuple(Array(array.dtype.str, array.shape, array.nbytes) for array in arrays)
    return Answer("", read.remark, shown, has_sound, described), arrays


def limit_process(parent_pid: int) -> None:
    """Bound what this process may take; called before anything is read."""
    die_with_parent(parent_pid)
    go_before_parent(OOM_RECOGNISER)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _allow_cpu() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def serve(files: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more files."""
    libc = ctypes.CDLL(None)
    answers.write(READY)
    answers.flush()
    os.nice(NICENESS)
    while length := files.read(LENGTH_BYTES):
        request = msgspec.json.decode(files.read(int.from_bytes(length, "big")), type=Request)
        _allow_cpu()
        answer, arrays = answer_to(request.kind, files.read(request.num_bytes), request.pixels)
        answers.write(encode_head(answer))
        for array in arrays:
            answers.write(np.ascontiguousarray(array).tobytes())
        answers.flush()
        del arrays
        # What a large file needed is given back to everybody.
        getattr(libc, "malloc_trim", int)(0)


if __name__ == "__main__":
    limit_process(int(sys.argv[1]))
    # Libraries that print must not print into the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as to_parent:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(sys.stdin.buffer, to_parent)
