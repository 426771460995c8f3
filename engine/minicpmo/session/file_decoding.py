"""A video file as the model gets it: for each second one picture, and a second of sound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.files.file import FRAME_PIXELS, Film
from engine.files.mono import Mono
from engine.files.worker import read_file


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
    """What of the file is missing; empty if all is there."""


def read_clip(data: bytes) -> Clip:
    """Decode a file's first minute here; raises `ValueError` with a reason for people. Blocks."""
    film = read_file("video", data, FRAME_PIXELS)
    assert isinstance(film, Film)
    if not film.shown:
        raise ValueError("the video file has no pictures that could be decoded")
    return clip_of(film)


def clip_of(film: Film) -> Clip:
    """A film with pictures, its memory shared."""
    pictures = [torch.from_numpy(picture) for picture in film.pictures]
    sound = None if film.sound is None else torch.from_numpy(film.sound)
    sounds = _by_second(sound, len(film.shown))
    shown = zip(film.shown, sounds, strict=True)
    return Clip(tuple(Second(pictures[index], heard) for index, heard in shown), film.remark)


def _by_second(sound: Tensor | None, seconds: int) -> list[Tensor | None]:
    if sound is None:
        return [None] * seconds
    size = seconds * Mono.HZ
    whole = torch.nn.functional.pad(sound[:size], (0, max(0, size - len(sound))))
    return list(whole.view(seconds, Mono.HZ).unbind())
