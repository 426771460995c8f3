"""A video file as the model gets it: for each second one picture, and a second of sound."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from engine.minicpmo.session.mono import Mono

MAX_SECONDS = 60
MAX_SIDE = 1_280
"""Larger frames are scaled down: the model looks at about 448 x 448 of them anyway."""
MAX_PIXELS = 8192 * 4352
READ_LIMIT_S = 30.0
"""A file that takes longer to decode is cut where the time ended."""
CODEC_THREADS = 4
MIN_REST_S = 0.1
"""A shorter rest at the end is no second of its own."""
BEYOND_S = MAX_SECONDS + MIN_REST_S

# Named, because a demuxer that FFmpeg guesses, such as that of playlists, may open other files.
_QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_MATROSKA = b"\x1a\x45\xdf\xa3"

KeepGoing = Callable[[], bool]


@dataclass(frozen=True)
class Second:
    picture: Tensor
    """[height, width, 3] uint8, the frame nearest to the middle of the second."""
    sound: Tensor | None
    """[16 000], 16 kHz; None where the file has none."""


@dataclass(frozen=True)
class Clip:
    seconds: tuple[Second, ...]
    cut: str = ""
    """Why the rest of the file is missing; empty if all is there."""


def read_clip(data: bytes, keep_going: KeepGoing = lambda: True) -> Clip:
    """Decode a file's first minute; raises `ValueError` with a reason for people. Blocks."""
    try:
        with av.open(io.BytesIO(data), mode="r", format=_container(data)) as container:
            return _Reader(container, keep_going).read()
    except av.error.FFmpegError as error:
        raise ValueError(f"the video cannot be read: {error.strerror}") from None


def _container(data: bytes) -> str:
    if data.startswith(_MATROSKA):
        return "matroska"
    if data[4:8] in _QUICKTIME_ATOMS:
        return "mov"
    raise ValueError("the video is no MP4, QuickTime, WebM or Matroska file")


class _Frames:
    """Chooses for each second the frame nearest to its middle, as frames come in order."""

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []
        self.end_s = 0.0
        """Where the last frame ends."""
        self._before: tuple[float, Any] | None = None
        self._shown: tuple[Any, Tensor] | None = None

    @property
    def is_full(self) -> bool:
        return len(self.pictures) >= MAX_SECONDS

    def push(self, at_s: float, lasts_s: float, frame: Any) -> None:
        before = self._before or (at_s, frame)
        while not self.is_full and at_s >= (middle_s := len(self.pictures) + 0.5):
            is_nearer = at_s - middle_s < middle_s - before[0]
            self._take(frame if is_nearer else before[1])
        self._before = (at_s, frame)
        self.end_s = max(self.end_s, at_s + lasts_s)

    def finish(self, seconds: int) -> None:
        """Show the last frame until the end."""
        while self._before is not None and len(self.pictures) < seconds:
            self._take(self._before[1])
        self._before = None

    def _take(self, frame: Any) -> None:
        if self._shown is None or self._shown[0] is not frame:
            self._shown = (frame, _picture(frame))
        self.pictures.append(self._shown[1])


class _Reader:
    def __init__(self, container: Any, keep_going: KeepGoing) -> None:
        if not container.streams.video:
            raise ValueError("the video file has no pictures")
        self._container = container
        self._keep_going = keep_going
        self._until = time.monotonic() + READ_LIMIT_S
        self._video = container.streams.video[0]
        self._audio = next(iter(container.streams.audio), None)
        _check_size(self._video.codec_context)
        self._video.thread_type = "AUTO"
        self._video.codec_context.thread_count = CODEC_THREADS
        self._streams = [stream for stream in (self._video, self._audio) if stream is not None]
        starts = [s.start_time * s.time_base for s in self._streams if s.start_time is not None]
        self._begin_s = float(min(starts, default=0))
        self._frames = _Frames()
        self._mono: Mono | None = None
        self._num_samples = 0

    def read(self) -> Clip:
        cut = self._decode()
        sound = self._mono.finish() if self._mono is not None else None
        heard_s = 0.0 if sound is None else len(sound) / Mono.HZ
        lasts_s = max(self._frames.end_s, heard_s)
        if lasts_s > BEYOND_S:
            cut = f"only the first {MAX_SECONDS} s are used"
        seconds = min(MAX_SECONDS, max(1, math.ceil(lasts_s - MIN_REST_S)))
        self._frames.finish(seconds)
        if not self._frames.pictures:
            raise ValueError("the video cannot be read: no picture in it could be decoded")
        pictures = self._frames.pictures[:seconds]
        return Clip(tuple(map(Second, pictures, _by_second(sound, len(pictures)))), cut)

    def _decode(self) -> str:
        """Decode what is needed; why it ended early."""
        try:
            for packet in self._container.demux(self._streams):
                if all(map(self._is_beyond, self._streams)):
                    break
                if self._is_beyond(packet.stream):
                    continue
                for frame in packet.decode():
                    self._push(packet.stream, frame)
                if time.monotonic() > self._until or not self._keep_going():
                    return f"reading it took longer than {READ_LIMIT_S:g} s"
        except av.error.FFmpegError as error:
            if not self._frames.end_s:
                raise
            return f"the file is damaged: {error.strerror}"
        return ""

    def _is_beyond(self, stream: Any) -> bool:
        """Whether all that is used of a stream was decoded, and it goes on."""
        if stream is self._video:
            return self._frames.end_s > BEYOND_S
        return self._mono is not None and self._mono.num_samples > BEYOND_S * Mono.HZ

    def _push(self, stream: Any, frame: Any) -> None:
        at_s = max(0.0, (frame.time or 0.0) - self._begin_s)
        if stream is self._video:
            _check_size(frame)
            rate = self._video.average_rate
            self._frames.push(at_s, float(1 / rate) if rate else 0.0, frame)
            return
        if self._mono is None:
            self._mono = Mono(silence_s=min(at_s, MAX_SECONDS))
        self._mono.push(frame)


def _check_size(sized: Any) -> None:
    if sized.width * sized.height > MAX_PIXELS:
        raise ValueError(f"the video's {sized.width} x {sized.height} pixels are too many")


def _picture(frame: Any) -> Tensor:
    """A frame as [height, width, 3] uint8, upright, `MAX_SIDE` at most."""
    scale = min(1.0, MAX_SIDE / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    picture = torch.from_numpy(np.ascontiguousarray(rgb.to_ndarray()))
    # Phones film on their side and say by how much to turn, counterclockwise.
    return torch.rot90(picture, round(frame.rotation / 90) % 4, (0, 1)).contiguous()


def _by_second(sound: Tensor | None, seconds: int) -> list[Tensor | None]:
    if sound is None:
        return [None] * seconds
    size = seconds * Mono.HZ
    whole = torch.nn.functional.pad(sound[:size], (0, max(0, size - len(sound))))
    return list(whole.view(seconds, Mono.HZ).unbind())
