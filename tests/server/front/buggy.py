"""A server whose front has a bug that a signal wakes: `python -m tests.server.front.buggy OPTIONS`.

Otherwise it is run.py.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from engine.ipc.child_process import LoopLag

WAKES = signal.SIGUSR2
"""Raises in one of the front's tasks."""


class BuggyLag(LoopLag):
    async def run(self) -> None:
        woken = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(WAKES, woken.set)
        await woken.wait()
        raise RuntimeError("a bug")


if __name__ == "__main__":
    import run
    from server.front import launch

    vars(launch)["LoopLag"] = BuggyLag
    sys.exit(run.main())
