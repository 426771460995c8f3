"""Pictures of a camera as small JPEGs. Runs in an executor."""

from __future__ import annotations

from typing import Any

import av
import numpy as np

COARSENESS = 6
"""Of the encoder's scale from 2, the finest, to 31: some 10 kB for 320 x 240."""


def small_jpeg(width: int, height: int, rgb: bytes, most: int) -> bytes:
    """Encode a picture, no side longer than `most` pixels; `rgb` has rows from the top."""
    scale = min(1.0, most / max(width, height))
    size = [max(2, 2 * round(side * scale / 2)) for side in (width, height)]
    pixels = np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
    picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuvj420p"
    encoder.qmin = encoder.qmax = COARSENESS
    # Else it starts a thread for each processor.
    small = picture.reformat(width=size[0], height=size[1], format="yuvj420p", threads=1)
    return b"".join(bytes(packet) for packet in [*encoder.encode(small), *encoder.encode(None)])
