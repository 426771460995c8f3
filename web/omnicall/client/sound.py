"""Sound as this package takes and gives it: int16, mono, 24 kHz; files in and out."""

from __future__ import annotations

import asyncio
import wave
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from omnicall.client.errors import ClientError

RATE = 24_000

Pcm = NDArray[np.int16]


class Resampling:
    """A stream of sound brought to another rate, and to mono."""

    def __init__(self, rate: int) -> None:
        self._inner = av.AudioResampler(format="s16", layout="mono", rate=rate)

    def feed(self, frame: av.AudioFrame) -> Pcm:
        """What is ready so far."""
        return _joined(self._inner.resample(frame))

    def rest(self) -> Pcm:
        return _joined(self._inner.resample(None))


def _joined(frames: list[av.AudioFrame]) -> Pcm:
    pieces = [frame.to_ndarray()[0].astype(np.int16, copy=False) for frame in frames]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def frame_of(pcm: Pcm, rate: int, pts: int = 0) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(pcm[None, :], format="s16", layout="mono")
    frame.sample_rate, frame.pts = rate, pts
    return frame


def as_pcm(samples: NDArray[Any], rate: int) -> Pcm:
    """Mono samples of any rate, int16 or floats from -1 to 1, as `RATE`."""
    if samples.ndim != 1:
        raise ValueError(f"samples: one channel is expected, got the shape {samples.shape}")
    if np.issubdtype(samples.dtype, np.floating):
        samples = np.clip(samples, -1, 1) * 32767
    pcm = np.ascontiguousarray(samples, dtype=np.int16)
    if rate == RATE or not len(pcm):
        return pcm
    resampler = Resampling(RATE)
    return np.concatenate([resampler.feed(frame_of(pcm, rate)), resampler.rest()])


def read_sound(path: str | Path) -> Pcm:
    """A file in any format that FFmpeg reads; blocks. Raises `ClientError`."""
    resampler = Resampling(RATE)
    pieces: list[Pcm] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                # Gaps in the file's own stamps are not played.
                frame.pts = None
                pieces.append(resampler.feed(frame))
        pieces.append(resampler.rest())
    except (OSError, ValueError, IndexError) as error:
        raise ClientError(f"{path} holds no sound that can be read: {error}") from error
    return np.concatenate(pieces)


class Unsaid:
    """What is still to be said: filled by the user, taken by a transport in real time."""

    def __init__(self, limit_s: float = 1.0) -> None:
        self._pieces: deque[Pcm] = deque()
        self._waiting = 0
        self._limit = int(limit_s * RATE)
        self._taken = asyncio.Event()
        self._is_closed = False

    @property
    def waiting_s(self) -> float:
        return self._waiting / RATE

    def put(self, pcm: Pcm) -> None:
        """Take it whole, whatever waits already."""
        self._pieces.append(pcm)
        self._waiting += len(pcm)

    async def say(self, pcm: Pcm) -> None:
        """Return when all but the last second has been taken."""
        for piece in _pieces(pcm, RATE // 10):
            while self._waiting >= self._limit and not self._is_closed:
                await self._wait()
            if self._is_closed:
                return
            self.put(piece)

    async def said(self) -> None:
        """Wait until everything has been taken."""
        while self._waiting and not self._is_closed:
            await self._wait()

    async def _wait(self) -> None:
        self._taken.clear()
        await self._taken.wait()

    def take(self, count: int) -> Pcm:
        """Exactly `count` samples, silence where nothing is to be said."""
        out = np.zeros(count, np.int16)
        filled = 0
        while filled < count and self._pieces:
            piece = self._pieces.popleft()
            used = min(len(piece), count - filled)
            out[filled : filled + used] = piece[:used]
            if used < len(piece):
                self._pieces.appendleft(piece[used:])
            filled += used
        self._waiting -= filled
        self._taken.set()
        return out

    def close(self) -> None:
        self._is_closed = True
        self._taken.set()


def _pieces(pcm: Pcm, length: int) -> Iterator[Pcm]:
    for start in range(0, len(pcm), length):
        yield pcm[start : start + length]


class Recorder:
    """Writes sound to a WAV file as it comes."""

    def __init__(self, path: str | Path) -> None:
        self._file = wave.open(str(path), "wb")
        self._file.setparams((1, 2, RATE, 0, "NONE", ""))

    def add(self, pcm: Pcm) -> None:
        self._file.writeframes(pcm.tobytes())

    def close(self) -> None:
        self._file.close()
