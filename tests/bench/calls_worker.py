"""A media worker of the benchmark of calls whose loop is watched for standstills."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from engine.ipc.child_process import LoopLag
from server.worker import worker
from tests.bench.standstills import FOLDER, Standstills


def main() -> None:
    """Entry of a media worker process."""
    usual = LoopLag.run

    async def run(lag: LoopLag) -> None:
        path = Path(os.environ[FOLDER]) / f"worker-{os.getpid()}"
        watching = asyncio.create_task(Standstills(path).run())
        try:
            await usual(lag)
        finally:
            watching.cancel()

    LoopLag.run = run  # type: ignore[method-assign,assignment]
    worker.main()
