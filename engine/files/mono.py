"""Decoded sound of any kind as the model hears it: 16 kHz, mono."""

from __future__ import annotations

from typing import Any, ClassVar

import av
import numpy as np
from numpy.typing import NDArray

from engine.files.file import UnreadableError
from engine.ipc.protocol import INPUT_HZ, OUTPUT_HZ

LOST_SHARE = 0.3
"""Less of the louder channel's power in the mean of both: one is silent or inverted."""


Sound = NDArray[np.float32]


class Mono:
    """Owns the samples so far; what follows is put behind them, whatever its time says."""

    HZ: ClassVar[int] = INPUT_HZ

    def __init__(self, silence_s: float = 0.0) -> None:
        self._resampler: Any = None
        self._kind: tuple[Any, ...] = ()
        self._pieces: list[NDArray[np.int16]] = []
        """[channels, N] each, with one channel or two."""
        self.num_samples = 0
        self.pause(silence_s)

    def push(self, frame: Any) -> None:
        """Take an `av.AudioFrame`."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            self._flush()
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            self._resampler = av.AudioResampler(format="s16p", layout=layout, rate=self.HZ)
            self._kind = kind
        # Of a file only the order counts, and the resampler refuses times that jump.
        frame.pts = None
        self._take(self._resampler.resample(frame))

    def pause(self, seconds: float) -> None:
        """Put silence behind what came."""
        self._keep(np.zeros((1, round(seconds * self.HZ)), np.int16))

    def finish(self) -> Sound:
        """All of it as [N] in [-1, 1]."""
        self._flush()
        if not self._pieces:
            return np.zeros(0, np.float32)
        channels = max(map(len, self._pieces))
        all_of_them = [np.broadcast_to(p, (channels, p.shape[1])) for p in self._pieces]
        return _mixed(_floats(np.concatenate(all_of_them, axis=1)))

    def _flush(self) -> None:
        if self._resampler is not None:
            self._take(self._resampler.resample(None))
            self._resampler = None

    def _take(self, frames: list[Any]) -> None:
        for frame in frames:
            self._keep(frame.to_ndarray())

    def _keep(self, piece: NDArray[np.int16]) -> None:
        if piece.shape[1]:
            self._pieces.append(piece)
            self.num_samples += piece.shape[1]


def _mixed(both: Sound) -> Sound:
    """The mean of all channels [C, N]; where they cancel out, the loudest one."""
    mean: Sound = both.mean(axis=0, dtype=np.float32)
    powers = np.square(both).mean(axis=1)
    cancels_out = float(np.square(mean).mean()) < LOST_SHARE * float(powers.max())
    if cancels_out:
        mean = both[int(powers.argmax())]
    return mean


def _floats(samples: NDArray[np.int16]) -> Sound:
    floats: Sound = samples.astype(np.float32) / np.float32(32768)
    return floats


def from_recording(pcm: bytes) -> Sound:
    """int16 PCM of 24 kHz as [N] of 16 kHz; raises `UnreadableError` if there is none."""
    samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], np.int16).reshape(1, -1)
    if not samples.size:
        raise UnreadableError("the recording is empty")
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = OUTPUT_HZ
    mono = Mono()
    mono.push(frame)
    return mono.finish()
