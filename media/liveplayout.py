"""The sound of a Live session: synthesised speech, or a recording that is played in its place."""

from __future__ import annotations

from collections.abc import Callable

from media.formats import DOWNLINK_PACKET_BYTES
from media.playout import Playout, PlayoutListener


class LivePlayout(Playout):
    """A playout that a recording can hold. `taken` gets each packet, None for silence; `ended` is
    told when a recording is over.
    """

    def __init__(
        self,
        *,
        listener: PlayoutListener,
        taken: Callable[[bytes | None], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(listener=listener)
        self._taken = taken
        self._ended = ended
        self._fixture = b""
        self._at = 0

    @property
    def is_held(self) -> bool:
        return self._at < len(self._fixture)

    def play(self, pcm: bytes) -> bool:
        """Play a recording, 24 kHz int16, from the next packet on; False while one is played."""
        if self.is_held:
            return False
        self._fixture, self._at = pcm, 0
        return True

    def take(self) -> bytes | None:
        pcm = self._take_fixture() if self.is_held else super().take()
        self._taken(pcm)
        return pcm

    def _take_fixture(self) -> bytes:
        pcm = self._fixture[self._at : self._at + DOWNLINK_PACKET_BYTES]
        self._at += DOWNLINK_PACKET_BYTES
        if not self.is_held:
            self._fixture = b""
            self._ended()
        pcm = pcm.ljust(DOWNLINK_PACKET_BYTES, b"\0")
        self._played.append(pcm)
        return pcm
