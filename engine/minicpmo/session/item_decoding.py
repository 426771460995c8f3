"""An item whose files are decoded, as the model's thread gets it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
import torch
from torch import Tensor

from engine.ipc.protocol import (
    AudioIn,
    AudioPart,
    CancelResponse,
    ClearAudio,
    CommitAudio,
    CreateResponse,
    DeleteItem,
    ForceListen,
    Heard,
    ImageIn,
    ImagePart,
    ItemIn,
    ItemPart,
    TextPart,
    UpdateSession,
    VideoPart,
)
from engine.minicpmo.session.file_decoding import Clip, KeepGoing, read_clip
from engine.minicpmo.session.mono import from_recording

_PICTURES = ((b"\xff\xd8\xff", "jpeg_pipe"), (b"\x89PNG\r\n", "png_pipe"), (b"RIFF", "webp_pipe"))
"""How files begin, and the only demuxer that may read them; a guessed one may open other files."""
MAX_PICTURE_PIXELS = 8192 * 8192


@dataclass(frozen=True)
class Picture:
    rgb: Tensor
    """[height, width, 3] uint8."""


@dataclass(frozen=True)
class Recording:
    sound: Tensor
    """[N], 16 kHz."""


ReadPart = str | Picture | Recording | Clip


@dataclass(frozen=True)
class ReadItem:
    session: str
    item: str
    role: Literal["user", "assistant", "system"]
    parts: tuple[ReadPart, ...]

    @property
    def num_bytes(self) -> int:
        """Memory of its pictures and sounds."""
        return sum(map(_num_bytes, self.parts))

    @property
    def remarks(self) -> list[str]:
        """What the user should know of the files."""
        return [
            f"the video is not used to its end: {part.cut}"
            for part in self.parts
            if isinstance(part, Clip) and part.cut
        ]


ModelMessage = (
    UpdateSession
    | AudioIn
    | ImageIn
    | ReadItem
    | DeleteItem
    | CommitAudio
    | ClearAudio
    | CreateResponse
    | CancelResponse
    | ForceListen
    | Heard
)
"""What the model's thread takes: nothing in it is still a file."""


def has_files(item: ItemIn) -> bool:
    return not all(isinstance(part, TextPart) for part in item.parts)


def read_item(item: ItemIn, keep_going: KeepGoing = lambda: True) -> ReadItem:
    """Decode the item's files; raises `ValueError` with a reason for people. Blocks."""
    parts = tuple(_read(part, keep_going) for part in item.parts)
    return ReadItem(item.session, item.item, item.role, parts)


def _read(part: ItemPart, keep_going: KeepGoing) -> ReadPart:
    match part:
        case TextPart():
            return part.text
        case ImagePart():
            return Picture(decode_picture(part.data))
        case AudioPart():
            return Recording(from_recording(part.pcm))
        case VideoPart():
            return read_clip(part.data, keep_going)


def decode_picture(data: bytes) -> Tensor:
    """A JPEG, PNG or WebP file as [height, width, 3] uint8; raises `ValueError`."""
    kind = next((name for start, name in _PICTURES if data.startswith(start)), None)
    if kind is None:
        raise ValueError("the picture is no JPEG, PNG or WebP file")
    try:
        with av.open(io.BytesIO(data), mode="r", format=kind) as container:
            size = container.streams.video[0].codec_context
            if size.width * size.height > MAX_PICTURE_PIXELS:
                raise ValueError(f"the picture's {size.width} x {size.height} pixels are too many")
            frame = next(container.decode(video=0))
    except (av.error.FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"the picture cannot be read: {error}") from None
    rgb: np.ndarray = frame.to_ndarray(format="rgb24")
    return torch.from_numpy(np.ascontiguousarray(rgb))


def _num_bytes(part: ReadPart) -> int:
    match part:
        case str():
            return 0
        case Picture():
            return part.rgb.nbytes
        case Recording():
            return part.sound.nbytes
        case Clip():
            # A frame that is shown for several seconds is there once.
            pictures = {id(second.picture): second.picture.nbytes for second in part.seconds}
            sounds = [s.sound.nbytes for s in part.seconds if s.sound is not None]
            return sum(pictures.values()) + sum(sounds)
