"""Decoded sound of any kind as the model hears it: 16 kHz, mono."""

from __future__ import annotations

from typing import Any, ClassVar

import av
import numpy as np
import torch
from torch import Tensor

from engine.ipc.protocol import INPUT_HZ, OUTPUT_HZ


class Mono:
    """Owns the samples so far; what follows is put behind them, whatever its time says."""

    HZ: ClassVar[int] = INPUT_HZ

    def __init__(self, silence_s: float = 0.0) -> None:
        silence = np.zeros(round(silence_s * self.HZ), np.int16)
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=self.HZ)
        self._pieces: list[np.ndarray] = [silence]
        self.num_samples = len(silence)

    def push(self, frame: Any) -> None:
        """Take an `av.AudioFrame`."""
        # Of a file only the order counts, and the resampler refuses times that jump.
        frame.pts = None
        self._take(self._resampler.resample(frame))

    def finish(self) -> Tensor:
        """All of it as float [N] in [-1, 1]."""
        self._take(self._resampler.resample(None))
        return torch.from_numpy(np.concatenate(self._pieces).astype(np.float32) / 32768)

    def _take(self, frames: list[Any]) -> None:
        for frame in frames:
            piece = frame.to_ndarray().reshape(-1)
            self._pieces.append(piece)
            self.num_samples += len(piece)


def from_recording(pcm: bytes) -> Tensor:
    """int16 PCM of 24 kHz as float [N] of 16 kHz; raises `ValueError` if there is none."""
    if not pcm:
        raise ValueError("the recording is empty")
    samples = np.frombuffer(pcm, np.int16).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = OUTPUT_HZ
    mono = Mono()
    mono.push(frame)
    return mono.finish()
