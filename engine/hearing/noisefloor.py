"""How loud the surroundings are, band by band, and what stands out of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.ipc.protocol import INPUT_HZ, OUTPUT_HZ

FRAME = INPUT_HZ // 50
BANDS_HZ = (200, 800, 2500, 7000)
"""Below is the rumble of rooms and cars; a voice has something in each band."""
WINDOW_FRAMES = 100
QUIET_SHARE = 0.1
"""Speech has gaps of this share within the window, a fan has none."""
MARGIN_DB = 6.0
QUIETEST_DB = -120.0

Levels = NDArray[np.float64]


class NoiseFloor:
    """Owns the levels of the last two seconds. Steady noise is known after these, at the latest."""

    def __init__(self) -> None:
        self._recent = np.full((WINDOW_FRAMES, len(BANDS_HZ) - 1), QUIETEST_DB)
        self._next = 0

    def push(self, frame: bytes) -> Levels:
        """Take 20 ms of 16 kHz PCM; return the level of each of its bands, dB [bands]."""
        samples = np.frombuffer(frame, np.int16) * _SHAPE
        power = np.abs(np.fft.rfft(samples)) ** 2
        levels: Levels = 10 * np.log10(np.add.reduceat(power, _STARTS)[:-1] + _LEAST)
        self._recent[self._next] = levels
        self._next = (self._next + 1) % WINDOW_FRAMES
        return levels

    @property
    def levels(self) -> Levels:
        """What is always there, dB [bands]."""
        return quiet_of(self._recent)


def played_levels(packets: list[bytes]) -> Levels:
    """The same bands of packets of 20 ms and 24 kHz, dB [packets, bands]."""
    samples = np.frombuffer(b"".join(packets), np.int16).reshape(len(packets), -1) * _PLAYED_SHAPE
    power = np.abs(np.fft.rfft(samples)) ** 2
    levels: Levels = 10 * np.log10(np.add.reduceat(power, _STARTS, axis=1)[:, :-1] + _LEAST)
    return levels


def quiet_of(levels: Levels) -> Levels:
    """The level of each band in the gaps of some frames [frames, bands]."""
    rank = int(QUIET_SHARE * len(levels))
    quiet: Levels = np.partition(levels, rank, axis=0)[rank]
    return quiet


def stands_out(levels: Levels, floor: Levels) -> NDArray[np.bool_]:
    """Whether any band of each frame [..., bands] is well above a floor [bands]."""
    return np.asarray((levels > floor + MARGIN_DB).any(axis=-1))


_SHAPE = np.hanning(FRAME) / 32768
_PLAYED_SHAPE = np.hanning(OUTPUT_HZ // 50) / 32768
_STARTS = [hz * FRAME // INPUT_HZ for hz in BANDS_HZ]
"""The same for both rates: 20 ms have a bin each 50 Hz."""
_LEAST = 10 ** (QUIETEST_DB / 10)
