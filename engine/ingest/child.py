"""An engine's end of its ingest process: start it, see that it lives, end it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine.base import EngineError
from engine.config import EngineConfig
from engine.ingest.process import Beat, IngestConfig
from engine.ipc.patience import Patience

ROOT = Path(__file__).resolve().parents[2]
CODE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from engine.ingest.process import main; main()"
)
START_S = 30.0
SILENCE_S = 10.0
END_S = 0.3


class Ingest:
    """Owns the process. `run` raises `EngineError` when it is gone: its engine then serves nobody.

    `endpoint` is where media workers dial; the engine itself listens at `inner`.
    """

    def __init__(
        self, config: EngineConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._clock = clock
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.endpoint = ""
        self.cpu_s = 0.0
        if config.endpoint.startswith("ipc:///"):
            self.inner = f"{config.endpoint}.model"
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="omnicall-ingest-")
            self.inner = f"ipc://{Path(self._folder.name) / 'model'}"

    async def start(self) -> None:
        """Return when media workers can dial; raises `EngineError`."""
        config = self._config
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", CODE, str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C in the terminal is the parent's.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        told = IngestConfig(
            f"{config.name}.ingest",
            config.endpoint,
            self.inner,
            config.log_level,
            config.log_file,
            config.log_max_mb,
        )
        self._process.stdin.write(msgspec.json.encode(told) + b"\n")
        try:
            async with asyncio.timeout(START_S):
                is_there = await self._read()
        except TimeoutError:
            is_there = False
        if not is_there:
            await self.stop()
            raise EngineError("the ingest process does not start, see its log")

    async def run(self) -> None:
        """Watch it until cancelled."""
        patience = Patience(SILENCE_S, clock=self._clock)
        while True:
            try:
                async with asyncio.timeout(patience.tick_s):
                    is_there = await self._read()
            except TimeoutError:
                if patience.check():
                    raise EngineError(
                        f"the ingest process was silent for {SILENCE_S:g} s"
                    ) from None
                continue
            if not is_there:
                raise EngineError("the ingest process has ended, see its log")
            patience.sign()

    async def stop(self) -> None:
        """Let it pass on what the engine said last, and end it."""
        process = self._process
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(END_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._folder is not None:
            self._folder.cleanup()

    async def _read(self) -> bool:
        """Read a sign of life; False when there will be none."""
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            return False
        beat = msgspec.json.decode(line, type=Beat)
        self.endpoint, self.cpu_s = beat.endpoint, beat.cpu_s
        return True
