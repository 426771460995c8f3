"""G.711: eight bits a sample at 8 kHz, by the µ-law and the A-law (ITU-T G.711)."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

Law = Literal["mu", "a"]


def decode(data: bytes, law: Law) -> bytes:
    """Return the int16 PCM of one byte a sample."""
    return _decoding(law)[np.frombuffer(data, np.uint8)].tobytes()


def encode(pcm: bytes, law: Law) -> bytes:
    """Return one byte for each sample of int16 PCM."""
    return _encoding(law)[np.frombuffer(pcm, np.uint16)].tobytes()


@functools.cache
def _decoding(law: Law) -> np.ndarray:
    """The sample of each of the 256 codes."""
    codes = np.arange(256)
    if law == "mu":
        codes = ~codes & 0xFF
        steps = ((codes & 0x0F) << 3) + 0x84
        values = (steps << ((codes & 0x70) >> 4)) - 0x84
        signed = np.where(codes & 0x80, -values, values)
    else:
        codes = codes ^ 0x55
        exponent = (codes & 0x70) >> 4
        steps = ((codes & 0x0F) << 4) + np.where(exponent, 0x108, 8)
        values = steps << np.maximum(exponent - 1, 0)
        signed = np.where(codes & 0x80, values, -values)
    return signed.astype(np.int16)


@functools.cache
def _encoding(law: Law) -> np.ndarray:
    """The code of each of the 65536 samples: the nearest value that a code stands for."""
    values = _decoding(law).astype(np.int32)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    samples = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    right = np.clip(np.searchsorted(ordered, samples), 1, 255)
    left = right - 1
    nearer = np.where(samples - ordered[left] <= ordered[right] - samples, left, right)
    return order[nearer].astype(np.uint8)
