"""The engine's end of the recogniser fork server: one child process that forks recognisers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from engine.base import EngineError
from engine.builtin.recogniser_worker import READY, send_spawn

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 2.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Each recogniser has one thread to compute with, and forking allows no others. numpy reads this
while it is loaded."""
ROOT = Path(__file__).resolve().parents[2]
MODULE = "engine.builtin.recogniser_worker"


class RecogniserForkserver:
    """Owns the child process and the socket on which recognisers are ordered."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = process
        self._control = control

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, module: str = MODULE, *arguments: str) -> RecogniserForkserver:
        """Start it and wait until its models are loaded; raise `EngineError` if it fails.

        `module` is what it runs, with further `arguments`. Call it on a thread that lives as long
        as the engine: the child dies with its thread.
        """
        ours, theirs = socket.socketpair()
        parent = str(os.getpid())
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", module, str(theirs.fileno()), parent, *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": path, **ONE_THREAD},
            )  # fmt: skip
        forkserver = cls(process, ours)
        try:
            ours.setblocking(False)
            async with asyncio.timeout(START_TIMEOUT_S):
                answer = await asyncio.get_running_loop().sock_recv(ours, 1)
        except (TimeoutError, OSError) as error:
            await forkserver.close()
            raise EngineError(f"the speech recogniser did not start: {error!r}") from error
        except asyncio.CancelledError:
            await forkserver.close()
            raise
        if answer != READY:
            await forkserver.close()
            raise EngineError("the speech recogniser could not load its models")
        return forkserver

    def spawn(self) -> socket.socket:
        """Order one more recogniser; return the socket it answers on, or raise `OSError`."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                send_spawn(self._control, theirs)
            except OSError:
                ours.close()
                raise
        return ours

    def kill(self) -> None:
        """Kill a fork server that hangs, and with it every recogniser."""
        if self._process.returncode is None:
            self._process.kill()

    async def wait(self) -> int:
        """Wait for the end of the process; return its exit status."""
        return await self._process.wait()

    async def close(self) -> None:
        """End it, and with it every recogniser."""
        self._control.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
