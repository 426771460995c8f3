"""What a caller's surroundings sound like, for times in which nothing of them arrives.

Digital silence in the place of a lost connection would teach an engine that the room is quiet, and
have it take the room for speech when it is heard again. Owned by the uplink.
"""

import numpy as np
from numpy.typing import NDArray

from media.formats import SAMPLE_BYTES, UPLINK_PACKET_BYTES, UPLINK_PACKET_SAMPLES

WINDOW_PACKETS = 150
"""The quietest packet of so many, and of as many before them, is the background."""
EVERY = 4
"""One of so many is looked at: what is quiet for 80 ms is found, for a quarter of the work."""
BLOCKS = 25
"""Halves of packets that are made at once: a quarter of a second."""
_HOP = UPLINK_PACKET_SAMPLES // 2
_WINDOW = np.sin(np.pi * (np.arange(2 * _HOP) + 0.5) / (2 * _HOP)).astype(np.float32)
"""Overlapped by half, uncorrelated noise keeps its power."""


class BackgroundNoise:
    """Learn from 20 ms of 16 kHz int16 PCM at a time, and go on as what was quietest."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._packets = 0
        self._current: tuple[float, bytes] | None = None
        self._previous: tuple[float, bytes] | None = None
        self._spectrum: NDArray[np.float32] | None = None
        self._stock = b""
        self._tail = np.zeros(_HOP)

    def hear(self, pcm: bytes) -> None:
        """Learn from what was decoded; what is shorter or longer than 20 ms tells nothing."""
        if len(pcm) != UPLINK_PACKET_BYTES:
            return
        self._spectrum = None
        if self._packets == WINDOW_PACKETS:
            self._previous, self._current, self._packets = self._current, None, 0
        self._packets += 1
        if self._packets % EVERY != 1:
            return
        samples = np.frombuffer(pcm, np.int16).astype(np.float32)
        power = float(samples @ samples)
        if self._current is None or power < self._current[0]:
            self._current = power, pcm

    def noise(self, samples: int) -> bytes:
        """Return so many samples as loud and of the same colour as the background; zeros if
        nothing was heard yet."""
        if self._spectrum is None:
            self._spectrum = self._learnt()
            self._stock, self._tail = b"", np.zeros(_HOP)
        while len(self._stock) < samples * SAMPLE_BYTES:
            self._stock += self._made()
        pcm = self._stock[: samples * SAMPLE_BYTES]
        self._stock = self._stock[samples * SAMPLE_BYTES :]
        return pcm

    def _learnt(self) -> NDArray[np.float32]:
        known = [window for window in (self._previous, self._current) if window is not None]
        if not known:
            return np.zeros(_HOP + 1, np.float32)
        _, pcm = min(known)
        sound = np.frombuffer(pcm, np.int16).astype(np.float32)
        # The window halves the power.
        return np.abs(np.fft.rfft(sound * _WINDOW)).astype(np.float32) * np.float32(np.sqrt(2))

    def _made(self) -> bytes:
        """Some time of it at once, which is cheaper; its phases are drawn."""
        assert self._spectrum is not None
        turns = self._random.uniform(0.0, 2 * np.pi, (BLOCKS, len(self._spectrum)))
        sound = np.fft.irfft(self._spectrum * np.exp(1j * turns), 2 * _HOP) * _WINDOW
        sound[1:, :_HOP] += sound[:-1, _HOP:]
        sound[0, :_HOP] += self._tail
        self._tail = sound[-1, _HOP:]
        return np.clip(np.rint(sound[:, :_HOP]), -32768, 32767).astype("<i2").tobytes()
