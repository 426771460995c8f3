"""Spectra as Whisper reads them, in numpy: log-mel of 16 kHz sound, a column for each 10 ms."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from engine.builtin.telephone import widened
from engine.hearing.windows import windows
from engine.ipc.protocol import INPUT_HZ

FFT = 400
HOP = 160
LEAST = 1e-10
RANGE = 8.0
"""Decades below the loudest; what is weaker is taken as this."""
LINEAR_HZ = 1000.0
"""Slaney's scale is linear below, logarithmic above, with steps of 200/3 Hz there."""
LINEAR_STEP_HZ = 200 / 3
LOG_STEP = np.log(6.4) / 27


def log_mel(pcm: NDArray[np.int16], bands: int) -> NDArray[np.float32]:
    """[bands, N // 160] for [N] samples."""
    sound = np.pad(pcm.astype(np.float32) / 32_768, FFT // 2, mode="reflect")
    frames = windows(sound, FFT, HOP)[: len(pcm) // HOP]
    window = np.hanning(FFT + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    mel = np.log10(np.maximum(_filters(bands) @ power.T, LEAST))
    mel = widened(mel, _centres(bands))
    mel = np.maximum(mel, mel.max() - RANGE)
    return np.ascontiguousarray((mel + 4) / 4, np.float32)


@cache
def _filters(bands: int) -> NDArray[np.float64]:
    """[bands, FFT // 2 + 1] triangles of the same area, evenly spaced on Slaney's scale."""
    edges = _hz(np.linspace(0.0, _mel(INPUT_HZ / 2), bands + 2))
    bins = np.linspace(0, INPUT_HZ / 2, FFT // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * (2 / (edges[2:] - edges[:-2]))[:, None])


@cache
def _centres(bands: int) -> NDArray[np.float64]:
    """Where each band lies, Hz."""
    return _hz(np.linspace(0.0, _mel(INPUT_HZ / 2), bands + 2))[1:-1]


def _mel(hz: float) -> float:
    if hz < LINEAR_HZ:
        return hz / LINEAR_STEP_HZ
    return float(LINEAR_HZ / LINEAR_STEP_HZ + np.log(hz / LINEAR_HZ) / LOG_STEP)


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    border = LINEAR_HZ / LINEAR_STEP_HZ
    above = LINEAR_HZ * np.exp(LOG_STEP * (mel - border))
    return np.asarray(np.where(mel < border, mel * LINEAR_STEP_HZ, above))
