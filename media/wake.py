"""A microphone whose sound is kept back until somebody speaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import webrtcvad

from media.formats import SAMPLE_BYTES, UPLINK_HZ, UPLINK_PACKET_BYTES

PREROLL_PACKETS = 300 // 20
ONSET_WINDOW = 8
ONSET_VOICED = 6


class WakeGate:
    """Passes 20 ms pieces of 16 kHz PCM on; while it is shut, it calls `woken` for speech.

    The positions that `sink(pts, pcm)` gets do not count what was not passed. The last 300 ms are
    kept, so that the beginning of what woke it is heard when it opens.
    """

    def __init__(
        self,
        sink: Callable[[int, bytes], None],
        woken: Callable[[], None],
        threshold: float = 0.5,
    ) -> None:
        """`threshold`: 0 wakes for any sound that is like speech, 1 for what is clear alone."""
        self.pts = 0
        """Samples that were passed on."""
        self._sink = sink
        self._woken = woken
        self._detector = webrtcvad.Vad(min(3, int(threshold * 4)))
        self._is_shut = False
        self._kept: deque[bytes] = deque(maxlen=PREROLL_PACKETS)
        self._voiced: deque[bool] = deque(maxlen=ONSET_WINDOW)

    def shut(self, is_shut: bool) -> None:
        if is_shut == self._is_shut:
            return
        self._is_shut = is_shut
        self._voiced.clear()
        while self._kept:
            self._pass(self._kept.popleft())

    def hear(self, pts: int, pcm: bytes) -> None:
        if not self._is_shut:
            self._pass(pcm)
            return
        self._kept.append(pcm)
        is_whole = len(pcm) == UPLINK_PACKET_BYTES
        self._voiced.append(is_whole and self._detector.is_speech(pcm, UPLINK_HZ))
        if sum(self._voiced) >= ONSET_VOICED:
            self._woken()

    def _pass(self, pcm: bytes) -> None:
        self._sink(self.pts, pcm)
        self.pts += len(pcm) // SAMPLE_BYTES
