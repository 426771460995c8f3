"""What callers' files are read into, and how much of them is kept. Loads no library of codecs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.ipc.protocol import AudioPart, ImagePart, ItemIn, ItemPart, TextPart, VideoPart

Kind = Literal["picture", "video", "recording"]
Pixels = NDArray[np.uint8]

PICTURE_PIXELS = 2048 * 2048
"""Kept of a picture: more than the native model looks at in its most slices."""
FRAME_PIXELS = 1_280 * 720
"""Kept of each picture of a film."""
MAX_SECONDS = 60
"""Used of films and recordings."""
ITEM_PIXELS = 32 * 1024 * 1024
"""Kept of all files of one item together; where there are many, of each fewer."""


class UnreadableError(ValueError):
    """A file cannot be used; the text is for people."""


@dataclass(frozen=True)
class PictureFile:
    rgb: Pixels
    """[height, width, 3], upright, on white."""
    remark: str = ""
    """What of the file is missing in it, for people."""


@dataclass(frozen=True)
class Film:
    pictures: tuple[Pixels, ...]
    """[height, width, 3] each, in order; a file with sound alone has none."""
    shown: tuple[int, ...]
    """The picture of each second, by its place in `pictures`: nearest to the second's middle."""
    sound: NDArray[np.float32] | None
    """[N], 16 kHz; None where the file has none."""
    remark: str = ""
    """What of the file is missing, for people; empty if all is there."""


@dataclass(frozen=True)
class File:
    """What of an item has to be read."""

    kind: Kind
    data: bytes
    pixels: int
    """That may be kept of each picture in it."""


def files_of(item: ItemIn) -> dict[int, File]:
    """The item's files, each by its place among the parts, with their shares of its pixels."""
    wanted = sum(map(_wanted_pixels, item.parts))
    share = min(1.0, ITEM_PIXELS / wanted) if wanted else 1.0
    found = ((index, _file(part, share)) for index, part in enumerate(item.parts))
    return {index: file for index, file in found if file is not None}


def _wanted_pixels(part: ItemPart) -> int:
    match part:
        case ImagePart():
            return PICTURE_PIXELS
        case VideoPart():
            return FRAME_PIXELS * MAX_SECONDS
        case _:
            return 0


def _file(part: ItemPart, share: float) -> File | None:
    match part:
        case ImagePart():
            return File("picture", part.data, int(PICTURE_PIXELS * share))
        case VideoPart():
            return File("video", part.data, int(FRAME_PIXELS * share))
        case AudioPart():
            return File("recording", part.pcm, 0)
        case TextPart():
            return None
