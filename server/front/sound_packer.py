"""Sound as files of the formats that clients ask for, made in processes of their own. Front."""

from __future__ import annotations

import asyncio
import logging
import sys

from server.front.supervisor import ROOT
from signaling.errors import ProtocolError

log = logging.getLogger(__name__)

PROCESSES = 2
LIMIT_S = 60.0
_CODE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from media.sound_file import main; main()"


class SoundPacker:
    """Owns the processes under way: few at once, the others wait."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(PROCESSES)

    async def pack(self, pcm: bytes, kind: str) -> bytes:
        """24 kHz PCM as a file; raises ProtocolError if that fails."""
        try:
            async with asyncio.timeout(LIMIT_S), self._places:
                return await _pack(pcm, kind)
        except (TimeoutError, OSError) as error:
            log.warning("sound could not be packed: %r", error)
            raise ProtocolError(
                "The sound could not be packed.",
                code="encoding_failed",
                type="server_error",
                status=500,
            ) from None


async def _pack(pcm: bytes, kind: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-W", "ignore", "-c", _CODE, kind),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        packed, _ = await process.communicate(pcm)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not packed:
        raise OSError(f"the process that packs sound ended with {process.returncode}")
    return packed
