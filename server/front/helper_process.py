"""Work that is not done where HTTP is answered: a process for each piece, few at once. Front."""

from __future__ import annotations

import asyncio
import sys

from server.front.supervisor import ROOT

LIMIT_S = 60.0


class HelperProcesses:
    """Runs `main` of a module for one input at a time in each process; the others wait."""

    def __init__(self, module: str, most: int = 2, limit_s: float = LIMIT_S) -> None:
        self._code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; main()"
        )
        self._places = asyncio.Semaphore(most)
        self._limit_s = limit_s

    async def run(self, data: bytes, *arguments: str) -> bytes:
        """Return what it writes for `data`; raises OSError or, if it takes long, TimeoutError."""
        async with asyncio.timeout(self._limit_s), self._places:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-W", "ignore", "-c", self._code, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            try:
                made, _ = await process.communicate(data)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode != 0 or not made:
            raise OSError(f"a helping process ended with {process.returncode}")
        return made
