"""A turn of the user as a message to the model, its pictures and sounds encoded in batches."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.clip import Clip
from engine.prompts import Message, Part, Picture, Sound
from engine.readitem import Picture as ReadPicture
from engine.readitem import ReadItem, ReadPart, Recording
from engine.runner import Runner, Seen
from engine.session import Session

MIN_SOUND_SAMPLES = 16_560
"""A shorter message is filled up with silence on the left, as the model was trained."""
TURN_SLICES = 9
"""Most slices of a picture in a typed message without video; with one the model gets none."""
BATCH = 16
"""Images that are encoded at once, as in the original; other sessions come in between."""


@dataclass
class Asked:
    """A turn of the user that wants an answer."""

    sound: Tensor | None = None
    """[N], 16 kHz."""
    utterance: int = 0
    items: list[ReadItem] = field(default_factory=list)
    picture: Tensor | None = None


@dataclass(frozen=True)
class Encoded:
    """The message with its embeddings [T, C], in order."""

    message: Message
    images: list[Tensor]
    sounds: list[Tensor]


@dataclass
class _Plan:
    """What is to be encoded, and where it stands: text, or an index with what it counts."""

    order: list[str | tuple[str, int]] = field(default_factory=list)
    pictures: list[tuple[Tensor, int]] = field(default_factory=list)
    sounds: list[Tensor] = field(default_factory=list)

    def look(self, picture: Tensor, slices: int) -> None:
        self.order.append(("picture", len(self.pictures)))
        self.pictures.append((picture, slices))

    def hear(self, sound: Tensor) -> None:
        self.order.append(("sound", len(self.sounds)))
        self.sounds.append(sound)

    def add(self, part: ReadPart, slices: int) -> None:
        match part:
            case str():
                self.order.append(part)
            case ReadPicture():
                self.look(part.rgb, slices)
            case Recording():
                self.hear(part.sound)
            case Clip():
                for second in part.seconds:
                    self.look(second.picture, 1)
                    if second.sound is not None:
                        self.hear(second.sound)


def encode_turn(runner: Runner, session: Session, asked: Asked) -> Generator[None, None, Encoded]:
    """Encode batch by batch, with a yield between two; the result is the generator's value."""
    plan = _Plan()
    parts = [part for item in asked.items for part in item.parts]
    if asked.picture is not None:
        plan.look(asked.picture, session.config.max_image_slices)
    slices = 1 if any(isinstance(part, Clip) for part in parts) else TURN_SLICES
    for part in parts:
        plan.add(part, slices)
    seen: list[Seen] = []
    for batch in _batches(plan.pictures):
        if seen:
            yield
        seen += runner.look(batch)
    # Chat reads recordings as the voice prompt is read, in blocks of a second.
    in_blocks = session.config.mode == "turn_based"
    heard: list[Tensor] = []
    for start in range(0, len(plan.sounds), BATCH):
        if seen or heard:
            yield
        heard += runner.hear_whole(plan.sounds[start : start + BATCH], in_blocks=in_blocks)
    placed = [_place(where, seen, heard) for where in plan.order]
    if asked.sound is not None and len(asked.sound):
        lacking = max(0, MIN_SOUND_SAMPLES - len(asked.sound))
        whole = torch.nn.functional.pad(asked.sound, (lacking, 0))
        heard += runner.hear_whole([whole], in_blocks=False)
        placed.append(Sound(len(heard[-1])))
    images = [image for picture in seen for image in picture.images]
    return Encoded(Message("user", tuple(placed)), images, heard)


def _place(where: str | tuple[str, int], seen: list[Seen], heard: list[Tensor]) -> Part:
    if isinstance(where, str):
        return where
    kind, index = where
    if kind == "sound":
        return Sound(len(heard[index]))
    return Picture(seen[index].columns, seen[index].rows)


def _batches(pictures: list[tuple[Tensor, int]]) -> list[list[tuple[Tensor, int]]]:
    """Groups of at most `BATCH` images, slices included, or of one picture."""
    groups: list[list[tuple[Tensor, int]]] = []
    room = 0
    for picture, slices in pictures:
        images = 1 if slices == 1 else 1 + slices
        if images > room:
            groups.append([])
            room = BATCH
        groups[-1].append((picture, slices))
        room -= images
    return groups
