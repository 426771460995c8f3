"""Sound as messages carry it, without a track: linear PCM, G.711 or floating point."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from media import g711
from media.formats import DOWNLINK_HZ, UPLINK_HZ
from media.rates import RateConverter

G711_HZ = 8_000
FULL_SCALE = 32_768


class WireFormat(NamedTuple):
    """`law` is None for int16 PCM, little endian."""

    hz: int
    law: g711.Law | None = None
    is_float: bool = False
    """float32 from -1 to 1, little endian, instead."""


PCM = WireFormat(DOWNLINK_HZ)
PCMU = WireFormat(G711_HZ, "mu")
PCMA = WireFormat(G711_HZ, "a")
_FLOAT: Any = np.dtype("<f4")


class WireDecoder:
    """From a client's sound to 16 kHz PCM."""

    def __init__(self, form: WireFormat) -> None:
        self.form = form
        self._rates = RateConverter(form.hz, UPLINK_HZ)

    def decode(self, data: bytes) -> bytes:
        """Raises ValueError for floating point that is no sound."""
        if self.form.is_float:
            data = _from_float(data)
        elif self.form.law is not None:
            data = g711.decode(data, self.form.law)
        return self._rates.convert(data)


class WireEncoder:
    """From 24 kHz PCM to a client's sound."""

    def __init__(self, form: WireFormat) -> None:
        self.form = form
        self._rates = RateConverter(DOWNLINK_HZ, form.hz)

    def encode(self, pcm: bytes) -> bytes:
        pcm = self._rates.convert(pcm)
        if self.form.is_float:
            samples = np.frombuffer(pcm, np.int16) / np.float32(FULL_SCALE)
            return bytes(samples.astype(_FLOAT).tobytes())
        return pcm if self.form.law is None else g711.encode(pcm, self.form.law)


def _from_float(data: bytes) -> bytes:
    if len(data) % _FLOAT.itemsize:
        raise ValueError(f"{len(data)} bytes are no whole number of float32 samples")
    samples = np.frombuffer(data, _FLOAT)
    if not np.isfinite(samples).all():
        raise ValueError("some samples are no numbers")
    scaled = np.rint(np.clip(samples, -1, 1) * (FULL_SCALE - 1))
    return bytes(scaled.astype(np.int16).tobytes())
