"""Sound as messages carry it, without a track: linear PCM or G.711."""

from __future__ import annotations

from typing import NamedTuple

from media import g711
from media.formats import DOWNLINK_HZ, UPLINK_HZ
from media.rates import RateConverter

G711_HZ = 8_000


class WireFormat(NamedTuple):
    """`law` is None for int16 PCM, little endian."""

    hz: int
    law: g711.Law | None = None


PCM = WireFormat(DOWNLINK_HZ)
PCMU = WireFormat(G711_HZ, "mu")
PCMA = WireFormat(G711_HZ, "a")


class WireDecoder:
    """From a client's sound to 16 kHz PCM."""

    def __init__(self, form: WireFormat) -> None:
        self.form = form
        self._rates = RateConverter(form.hz, UPLINK_HZ)

    def decode(self, data: bytes) -> bytes:
        if self.form.law is not None:
            data = g711.decode(data, self.form.law)
        return self._rates.convert(data)


class WireEncoder:
    """From 24 kHz PCM to a client's sound."""

    def __init__(self, form: WireFormat) -> None:
        self.form = form
        self._rates = RateConverter(DOWNLINK_HZ, form.hz)

    def encode(self, pcm: bytes) -> bytes:
        pcm = self._rates.convert(pcm)
        return pcm if self.form.law is None else g711.encode(pcm, self.form.law)
