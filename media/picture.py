"""Decode encoded frames to RGB pictures. Runs in an executor, one call at a time per stream."""

import time
from dataclasses import dataclass
from typing import Any

import av
from av.codec.context import Flags
from av.video.reformatter import VideoReformatter

from media.frames import EncodedFrame

MAX_PIXELS = 4096 * 2304
"""A frame header may claim any size; memory for more than this is not given."""


@dataclass(frozen=True, slots=True)
class CameraPicture:
    """One picture of the camera."""

    pts_ms: int
    """Media time since the first frame of the track."""
    width: int
    height: int
    rgb: bytes
    """height x width x 3 bytes, rows from the top."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The outcome of one batch of frames."""

    frames: int
    keyframes: int
    errors: int
    width: int = 0
    """Of the frames as sent."""
    height: int = 0
    picture: CameraPicture | None = None
    cpu_s: float = 0.0
    """Time of the processor that it took."""


class PictureDecoder:
    """Hold the decoder state of one stream; sizes and even codecs may change at a keyframe."""

    def __init__(self, max_side: int) -> None:
        self._max_side = max_side
        self._codec = ""
        self._context: Any = None
        self._image: Any = None
        # A frame's own would be set up anew for each picture, with a thread for each processor.
        self._reformatter = VideoReformatter()
        self._is_blind = False
        """No picture has come since the newest keyframe."""

    def decode(self, frames: list[EncodedFrame], pts_ms: int | None) -> Decoded:
        """Decode frames in order; make a picture of the newest unless `pts_ms` is None.

        Without frames it is that of the latest call.
        """
        began = time.thread_time()
        count = keyframes = errors = 0
        for frame in frames:
            # Damaged headers can make a decoder wait for pictures that are never sent.
            if frame.codec != self._codec or (frame.is_key and self._is_blind):
                self._open(frame.codec)
            self._is_blind = self._is_blind or frame.is_key
            try:
                images = self._context.decode(av.Packet(frame.data))
            except (av.FFmpegError, MemoryError):
                errors += 1
                continue
            count += len(images)
            keyframes += frame.is_key and bool(images)
            if images:
                self._image, self._is_blind = images[-1], False
        image, picture = self._image, None
        if image is None:
            return Decoded(count, keyframes, errors, cpu_s=time.thread_time() - began)
        if pts_ms is not None and (count or not frames):
            picture = self._convert(image, pts_ms)
        cpu_s = time.thread_time() - began
        return Decoded(count, keyframes, errors, image.width, image.height, picture, cpu_s)

    def _open(self, codec: str) -> None:
        self._context = av.CodecContext.create(codec, "r")
        # Threads inside the decoder delay pictures and multiply with the number of calls.
        self._context.thread_count = 1
        self._context.flags |= Flags.low_delay
        self._context.options = {"max_pixels": str(MAX_PIXELS)}
        self._codec = codec

    def _convert(self, image: Any, pts_ms: int) -> CameraPicture:
        scale = min(1.0, self._max_side / max(image.width, image.height))
        width = max(1, round(image.width * scale))
        height = max(1, round(image.height * scale))
        rgb = self._reformatter.reformat(
            image, width=width, height=height, format="rgb24", threads=1
        )
        return CameraPicture(pts_ms, width, height, rgb.to_ndarray().tobytes())
