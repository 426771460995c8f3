"""An item whose files are decoded, as the model's thread gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from engine.files.file import PICTURE_PIXELS, Film, PictureFile
from engine.files.worker import read_file
from engine.ingest.messages import SoundHeard
from engine.ipc.protocol import ImagePart, ItemIn, PlainMessage, TextPart
from engine.minicpmo.session.file_decoding import Clip, clip_of


@dataclass(frozen=True)
class DecodedPicture:
    rgb: Tensor
    """[height, width, 3] uint8."""
    max_slices: int = 0
    """0: as the session says."""


@dataclass(frozen=True)
class DecodedSound:
    sound: Tensor
    """[N], 16 kHz."""


@dataclass(frozen=True)
class FunctionCalled:
    """A call that the assistant once made."""

    name: str
    arguments: str


@dataclass(frozen=True)
class FunctionReturned:
    """What a function gave back."""

    output: str


DecodedPart = str | DecodedPicture | DecodedSound | Clip | FunctionCalled | FunctionReturned


@dataclass(frozen=True, eq=False)
class DecodedItem:
    session: str
    item: str
    role: Literal["user", "assistant", "system"]
    parts: tuple[DecodedPart, ...]
    after: str = ""
    """See `ItemIn.after`."""
    is_rest: bool = False
    """The model was given its beginning before."""

    @property
    def num_bytes(self) -> int:
        """Memory of its pictures and sounds."""
        return sum(map(_num_bytes, self.parts))

    def words(self) -> DecodedItem:
        """The item without its files."""
        kinds = str | FunctionCalled | FunctionReturned
        return replace(self, parts=tuple(part for part in self.parts if isinstance(part, kinds)))


ModelMessage = PlainMessage | SoundHeard | DecodedItem
"""What the model's thread takes: nothing in it is still a file."""


def has_files(item: ItemIn) -> bool:
    return not all(isinstance(part, TextPart) for part in item.parts)


def with_files(item: ItemIn, files: Mapping[int, PictureFile | Film]) -> DecodedItem:
    """The item's words, and what was read of its files, by their places among its parts."""
    parts: list[DecodedPart] = []
    for index, part in enumerate(item.parts):
        if isinstance(part, TextPart):
            parts.append(part.text)
        elif index in files:
            max_slices = part.max_slices if isinstance(part, ImagePart) else 0
            parts.append(_part(files[index], max_slices))
    return DecodedItem(item.session, item.item, item.role, tuple(parts), item.after)


def _part(read: PictureFile | Film, max_slices: int) -> DecodedPart:
    if isinstance(read, PictureFile):
        return DecodedPicture(torch.from_numpy(read.rgb), max_slices)
    if read.shown:
        return clip_of(read)
    assert read.sound is not None, "neither pictures nor sound"
    return DecodedSound(torch.from_numpy(read.sound))


def decode_picture(data: bytes) -> Tensor:
    """A picture file, read here, as [height, width, 3] uint8; raises `ValueError`. Blocks."""
    picture = read_file("picture", data, PICTURE_PIXELS)
    assert isinstance(picture, PictureFile)
    return torch.from_numpy(picture.rgb)


def _num_bytes(part: DecodedPart) -> int:
    match part:
        case str() | FunctionCalled() | FunctionReturned():
            return 0
        case DecodedPicture():
            return part.rgb.nbytes
        case DecodedSound():
            return part.sound.nbytes
        case Clip():
            # A frame that is shown for several seconds occurs only once.
            pictures = {id(second.picture): second.picture.nbytes for second in part.seconds}
            sounds = [s.sound.nbytes for s in part.seconds if s.sound is not None]
            return sum(pictures.values()) + sum(sounds)
