"""Sound as files of the formats that clients ask for, made in processes of their own. Front."""

from __future__ import annotations

import logging

from server.front.helper_process import HelperProcesses
from signaling.errors import ProtocolError

log = logging.getLogger(__name__)


class SoundPacker:
    """Owns the processes under way."""

    def __init__(self) -> None:
        self._helpers = HelperProcesses("media.sound_file")

    async def pack(self, pcm: bytes, kind: str) -> bytes:
        """24 kHz PCM as a file; raises ProtocolError if that fails."""
        try:
            return await self._helpers.run(pcm, kind)
        except (TimeoutError, OSError) as error:
            log.warning("sound could not be packed: %r", error)
            raise ProtocolError(
                "The sound could not be packed.",
                code="encoding_failed",
                type="server_error",
                status=500,
            ) from None
