"""Small video files, made for a test: each second has its own grey and its own tone."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np

RATE = 48_000


def grey(second: int) -> int:
    return 20 + 3 * second


@cache
def film(
    seconds: float,
    *,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    sound_s: float | None = None,
    kind: str = "mp4",
) -> bytes:
    """A file of `seconds`; `sound_s` of sound beside it, as long as the pictures if None."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as out:
        video = out.add_stream("libvpx" if kind == "webm" else "libx264", rate=fps)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.options = {"crf": "10", "b": "200k"}
        sound = None
        if sound_s != 0:
            sound = out.add_stream("libopus" if kind == "webm" else "aac", rate=RATE)
            sound.layout = "stereo"
        for index in range(round(seconds * fps)):
            rgb = np.full((size[1], size[0], 3), grey(index // fps), np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if sound is not None:
            for packet in _tones(sound, seconds if sound_s is None else sound_s):
                out.mux(packet)
    return file.getvalue()


def _tones(stream: Any, seconds: float) -> list[Any]:
    """A tone of 300 Hz and 200 more in each second."""
    packets: list[Any] = []
    at = np.arange(round(seconds * RATE))
    wave = 0.3 * np.sin(2 * np.pi * (300 + 200 * (at // RATE)) * at / RATE)
    stereo = np.repeat(wave[np.newaxis], 2, axis=0).astype(np.float32)
    for start in range(0, len(at), 960):
        piece = np.ascontiguousarray(stereo[:, start : start + 960])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = RATE, start
        frame.time_base = Fraction(1, RATE)
        packets += stream.encode(frame)
    packets += stream.encode()
    return packets
