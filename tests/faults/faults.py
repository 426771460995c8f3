"""The faults: what is done to a process or to the disk that the log is on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from msgspec import Struct

from tests.processes import usage

SPARE_FDS = 3
DISK_S = 8.0

Doing = Callable[[int, Path], AbstractAsyncContextManager[None]]
"""Given the process and the folder of the log; the fault lasts as long as the context."""


class Fault(Struct, frozen=True):
    name: str
    lasts_s: float
    """How long, before the context ends."""
    do: Doing
    on_disk: bool = False


@contextlib.asynccontextmanager
async def killed(pid: int, folder: Path) -> AsyncIterator[None]:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)
    yield


@contextlib.asynccontextmanager
async def stopped(pid: int, folder: Path) -> AsyncIterator[None]:
    """SIGSTOP, and SIGCONT at the end: a suspended machine, swap, a debugger."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def short_of_fds(pid: int, folder: Path) -> AsyncIterator[None]:
    """Only a few more file descriptors than it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    found = usage(pid)
    assert found is not None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (found.fds + SPARE_FDS, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def slow_disk(pid: int, folder: Path) -> AsyncIterator[None]:
    """Writing to the log stands still: it is a pipe that nobody reads for a while."""
    (folder / "stall").touch()
    try:
        yield
    finally:
        (folder / "stall").unlink()


@contextlib.asynccontextmanager
async def full_disk(pid: int, folder: Path) -> AsyncIterator[None]:
    """No byte more fits where the log is."""
    filler = folder / "small" / "filler"
    await asyncio.to_thread(_fill, filler)
    try:
        yield
    finally:
        await asyncio.to_thread(filler.unlink)


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


FAULTS = (
    Fault("kill", 0.0, killed),
    *(Fault(f"stop {seconds} s", float(seconds), stopped) for seconds in (3, 8, 20)),
    Fault("few fds", DISK_S, short_of_fds),
)
DISK_FAULTS = (
    Fault("slow disk", DISK_S, slow_disk, on_disk=True),
    Fault("full disk", DISK_S, full_disk, on_disk=True),
)


@contextlib.asynccontextmanager
async def log_disk(fault: Fault, folder: Path) -> AsyncIterator[tuple[str, ...]]:
    """The options that put the log where the fault will be; OSError where that takes root."""
    if fault.name == "full disk":
        small = folder / "small"
        small.mkdir()
        done = await asyncio.to_thread(
            subprocess.run,
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)],
            capture_output=True,
        )
        if done.returncode:
            raise OSError(f"no small disk can be mounted: {done.stderr.decode().strip()}")
        try:
            yield ("--set", f"log.file={small / 'log'}", "--set", "log.level=debug")
        finally:
            await asyncio.to_thread(subprocess.run, ["umount", "-l", str(small)], check=False)
        return
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    reading = asyncio.create_task(_drain(pipe, folder / "stall"))
    try:
        yield ("--set", f"log.file={pipe}", "--set", "log.level=debug")
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _drain(pipe: Path, stall: Path) -> None:
    """Read what is written, unless `stall` is there."""
    # Open for both, so that opening it for writing never waits.
    fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                while not await asyncio.to_thread(stall.exists):
                    os.read(fd, 65_536)
            await asyncio.sleep(0.02)
    finally:
        os.close(fd)
