"""A turn of the user as a message to the model, its pictures and sounds encoded in batches."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.dsp.logmel import first_fill
from engine.ipc.protocol import INPUT_HZ, FunctionTool, Modality, ToolChoice
from engine.minicpmo.llm.functions import replayed_call, response
from engine.minicpmo.llm.prompts import PromptMessage, PromptPart, PromptPicture, PromptSound
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.file_decoding import Clip
from engine.minicpmo.session.item_decoding import (
    DecodedItem,
    DecodedPart,
    DecodedPicture,
    DecodedSound,
    FunctionCalled,
    FunctionReturned,
)
from engine.minicpmo.session.session import Session

TURN_SLICES = 9
"""Most slices of a picture in a typed message without video; with one the model gets none."""
BATCH = 16
"""Images that are encoded at once, as in the original; other sessions come in between."""


@dataclass
class PendingTurn:
    """A turn of the user that wants an answer."""

    sound: Tensor | None = None
    """[N], 16 kHz."""
    utterance: int = 0
    items: list[DecodedItem] = field(default_factory=list)
    picture: Tensor | None = None
    instructions: str = ""
    """For this answer only."""
    modalities: tuple[Modality, ...] = ()
    """Of this answer; empty: the session's."""
    request: str = ""
    """The client's name for what it asked for; empty for what was spoken."""
    max_output_tokens: int | None = None
    """Of this answer; None: the session's."""
    tools: tuple[FunctionTool, ...] | None = None
    """Of this answer, instead of the session's."""
    tool_choice: ToolChoice | None = None
    tool_name: str = ""
    is_withdrawn: bool = False
    """The user spoke on before the answer began: it is read, and answered with nothing."""


@dataclass
class UserMessage:
    """A message whose length is known, and what of it is still to be encoded, in order."""

    parts: list[PromptPart] = field(default_factory=list)
    pictures: list[tuple[Tensor, int]] = field(default_factory=list)
    """[height, width, 3] uint8, each with its most slices."""
    recordings: list[Tensor] = field(default_factory=list)
    """[N] each, 16 kHz."""
    speech: Tensor | None = None
    """[N], 16 kHz, what the user said into the microphone: behind everything else."""

    @property
    def message(self) -> PromptMessage:
        return PromptMessage("user", tuple(self.parts))


class _Planner:
    """Counts what a turn will be in the model, without encoding anything."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.planned = UserMessage()

    def look(self, picture: Tensor, slices: int) -> None:
        plan = self._runner.plan_picture(picture, slices)
        self.planned.parts.append(PromptPicture(plan.columns, plan.rows))
        self.planned.pictures.append((picture, slices))

    def hear(self, sound: Tensor) -> None:
        count = self._runner.count_sound(len(sound))
        # A file may hold less than one embedding's tenth of a second, or no sample at all.
        if count:
            self.planned.parts.append(PromptSound(count))
            self.planned.recordings.append(sound)

    def listen(self, speech: Tensor) -> None:
        # The model was trained with messages as long as a first chunk at least.
        least = first_fill(self._runner.model.config.unit.samples(INPUT_HZ))
        lacking = max(0, least - len(speech))
        self.planned.speech = torch.nn.functional.pad(speech, (lacking, 0))
        self.planned.parts.append(PromptSound(self._runner.count_sound(len(self.planned.speech))))

    def add(self, part: DecodedPart, slices: int) -> None:
        match part:
            case str():
                self.planned.parts.append(part)
            case DecodedPicture():
                self.look(part.rgb, slices)
            case DecodedSound():
                self.hear(part.sound)
            case FunctionCalled():
                self.planned.parts += replayed_call(part.name, part.arguments)
            case FunctionReturned():
                self.planned.parts += response(part.output, behind=bool(self.planned.parts))
            case Clip():
                for second in part.seconds:
                    self.look(second.picture, 1)
                    if second.sound is not None:
                        self.hear(second.sound)


def plan_turn(runner: Runner, session: Session, asked: PendingTurn) -> UserMessage:
    """Plan the message that a turn becomes, without encoding anything."""
    planner = _Planner(runner)
    parts = [part for item in asked.items for part in item.parts]
    if asked.picture is not None:
        planner.look(asked.picture, session.config.max_image_slices)
    slices = 1 if any(isinstance(part, Clip) for part in parts) else TURN_SLICES
    for part in parts:
        planner.add(part, slices)
    if asked.sound is not None and len(asked.sound):
        planner.listen(asked.sound)
    return planner.planned


def encode_turn(
    runner: Runner, planned: UserMessage, *, in_blocks: bool
) -> Generator[None, None, tuple[list[Tensor], list[Tensor]]]:
    """Encode batch by batch, with a yield between two.

    The generator's value: the embeddings [T, C] of every image, slices included, and of every
    sound. `in_blocks`: recordings are read in blocks of a second, as the voice prompt is.
    """
    images: list[Tensor] = []
    sounds: list[Tensor] = []
    for batch in _batches(planned.pictures):
        if images:
            yield
        images += [image for seen in runner.look(batch) for image in seen.images]
    for start in range(0, len(planned.recordings), BATCH):
        if images or sounds:
            yield
        batch_of_sounds = planned.recordings[start : start + BATCH]
        sounds += runner.hear_whole(batch_of_sounds, in_blocks=in_blocks)
    if planned.speech is not None:
        sounds += runner.hear_whole([planned.speech], in_blocks=False)
    return images, sounds


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
