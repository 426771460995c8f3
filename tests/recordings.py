"""Recordings as people send them for a voice."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

HZ = 24_000


def talk(seconds: float, *, level: float = 0.2, noise: float = 0.0005, rate: int = HZ) -> Any:
    """Samples [N] in [-1, 1] with the rhythm of speech: syllables and pauses, over some noise."""
    at_s = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 140 * k * at_s) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 2.2 * at_s), 0, 1)
    hiss = np.random.default_rng(1).standard_normal(len(at_s))
    samples: NDArray[np.float64] = level * syllables * buzz / 2 + noise * hiss
    return samples


def packed(samples: Any, rate: int = HZ, kind: str = "wav", codec: str = "pcm_s16le") -> bytes:
    """A sound file of samples [N] in [-1, 1]."""
    made = io.BytesIO()
    with av.open(made, "w", format=kind) as opened:
        stream: Any = opened.add_stream(codec, rate=rate)
        stream.layout = "mono"
        pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm), format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        fifo = av.AudioFifo()
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts = None
            fifo.write(part)
        size = stream.frame_size or 1024
        while (piece := fifo.read(size, partial=True)) is not None:
            opened.mux(stream.encode(piece))
        opened.mux(stream.encode(None))
    return made.getvalue()
