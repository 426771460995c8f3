"""A process that packs sound: PCM on standard input, a file on standard output.

A process, because FFmpeg is not loaded where HTTP is answered, and encoding a long answer there
would hold up everybody else.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import av
import numpy as np

HZ = 24_000
BLOCK = HZ
NICENESS = 5
"""Whoever speaks comes before files."""

KINDS: dict[str, tuple[str, str, int]] = {
    "mp3": ("mp3", "libmp3lame", 64_000),
    "opus": ("ogg", "libopus", 48_000),
    "flac": ("flac", "flac", 0),
    "aac": ("adts", "aac", 64_000),
}
"""Container, codec and bit rate of each format."""


def pack(pcm: bytes, kind: str) -> bytes:
    """A file of 24 kHz int16 mono samples. Blocks."""
    container, codec, bitrate = KINDS[kind]
    packed = io.BytesIO()
    with av.open(packed, "w", format=container) as opened:
        stream: Any = opened.add_stream(codec, rate=HZ)
        stream.layout = "mono"
        if bitrate:
            stream.bit_rate = bitrate
        samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], np.int16).reshape(1, -1)
        for start in range(0, samples.shape[1], BLOCK):
            block = np.ascontiguousarray(samples[:, start : start + BLOCK])
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate = HZ
            frame.pts = start
            opened.mux(stream.encode(frame))
        opened.mux(stream.encode(None))
    return packed.getvalue()


def main() -> None:
    """The format is the argument."""
    os.nice(NICENESS)
    sys.stdout.buffer.write(pack(sys.stdin.buffer.read(), sys.argv[1]))
