"""From one sample rate to another, piece by piece, by the resampler of FFmpeg that PyAV carries."""

from __future__ import annotations

import av
import numpy as np

from media.formats import SAMPLE_BYTES


class RateConverter:
    """Convert one stream of int16 mono PCM; what it holds back at its end is below 2 ms."""

    def __init__(self, source_hz: int, target_hz: int) -> None:
        self._source_hz = source_hz
        self._target_hz = target_hz
        self._odd = b""
        self._resampler: av.AudioResampler | None = None
        if source_hz != target_hz:
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=target_hz)

    def convert(self, pcm: bytes) -> bytes:
        """Return what is ready; half a sample waits for its other half."""
        if self._odd or len(pcm) % SAMPLE_BYTES:
            pcm = self._odd + pcm
            whole = len(pcm) & ~1
            pcm, self._odd = pcm[:whole], pcm[whole:]
        if self._resampler is None or not pcm:
            return pcm
        samples = np.frombuffer(pcm, np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = self._source_hz
        frames = self._resampler.resample(frame)
        return b"".join(frame.to_ndarray().tobytes() for frame in frames)
