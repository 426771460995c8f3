"""From one sample rate to another, piece by piece: a windowed sinc in its polyphase form."""

from __future__ import annotations

import functools
import math

import numpy as np

from media.formats import SAMPLE_BYTES

ZERO_CROSSINGS = 16
"""Of the sinc on each side; the filter's delay in samples of the lower rate."""
PASSBAND = 0.92
"""Share of the lower rate's band that is kept; what would fold back lies beyond it."""
KAISER_BETA = 8.0


class RateConverter:
    """Convert one stream of int16 mono PCM; it comes out `ZERO_CROSSINGS` samples late."""

    def __init__(self, source_hz: int, target_hz: int) -> None:
        common = math.gcd(source_hz, target_hz)
        self._up, self._down = target_hz // common, source_hz // common
        self._is_same = source_hz == target_hz
        self._odd = b""
        self._filter = _filter(self._up, self._down)
        """[taps, outputs of a block]: a block is `_down` samples of the source."""
        self._past = np.zeros(len(self._filter) - self._down, np.float32)

    def convert(self, pcm: bytes) -> bytes:
        """Return what is ready; half a sample waits for its other half."""
        if self._odd or len(pcm) % SAMPLE_BYTES:
            pcm = self._odd + pcm
            whole = len(pcm) & ~1
            pcm, self._odd = pcm[:whole], pcm[whole:]
        if self._is_same:
            return pcm
        samples = np.concatenate((self._past, np.frombuffer(pcm, np.int16)), dtype=np.float32)
        taps = len(self._filter)
        blocks = max(0, (len(samples) - taps) // self._down + 1)
        self._past = samples[blocks * self._down :].copy()
        if not blocks:
            return b""
        # One row for each block, which overlaps its neighbours.
        step = samples.itemsize
        windows: np.ndarray = np.ndarray(
            (blocks, taps), np.float32, samples, strides=(self._down * step, step)
        )
        out = windows @ self._filter
        np.rint(out, out)
        converted: bytes = out.clip(-32768, 32767).astype(np.int16).tobytes()
        return converted


@functools.cache
def _filter(up: int, down: int) -> np.ndarray:
    """Weights by which the samples around make each of the `up` outputs of a block."""
    # In samples of the source: what lies between two zeros, and how far the filter reaches.
    spacing = max(1.0, down / up)
    reach = math.ceil(ZERO_CROSSINGS * spacing)
    at = np.arange(-reach, down + reach)[:, None] - np.arange(up)[None, :] * down / up
    inside = np.clip(at / reach, -1, 1)
    window = np.i0(KAISER_BETA * np.sqrt(1 - inside**2)) * (np.abs(at) < reach)
    weights = np.sinc(at * PASSBAND / spacing) * window
    rows: np.ndarray = (weights / weights.sum(axis=0)).astype(np.float32)
    return rows
