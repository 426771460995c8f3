"""A turn of the user as a message to the model, its pictures and sounds encoded in batches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from engine.dsp.logmel import first_fill
from engine.ipc.protocol import INPUT_HZ, FunctionTool, Modality, ToolChoice
from engine.minicpmo.llm.functions import replayed_call, response
from engine.minicpmo.llm.prompts import (
    PromptMessage,
    PromptPart,
    PromptPicture,
    PromptSound,
    Role,
)
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
from engine.minicpmo.session.turn_history import Given, ShownPicture, SpokenTurn

TURN_SLICES = 9
"""Most slices of a picture in a typed message without video; with one the model gets none."""
BATCH = 16
"""Images that are encoded at once, as in the original; other sessions come in between."""


@dataclass
class PendingTurn:
    """A turn of the user that wants an answer."""

    given: list[Given] = field(default_factory=list)
    utterance: int = 0
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
    says: tuple[int, ...] = ()
    """Ids of a text that is to be said word for word."""
    is_withdrawn: bool = False
    """The user spoke on before the answer began: it is read, and answered with nothing."""


@dataclass
class PlannedMessages:
    """Messages whose length is known, and what of them is still to be encoded, in order."""

    messages: list[PromptMessage] = field(default_factory=list)
    pictures: list[tuple[Tensor, int]] = field(default_factory=list)
    """[height, width, 3] uint8, each with its most slices."""
    sounds: list[tuple[Tensor, bool]] = field(default_factory=list)
    """[N] each, 16 kHz, and whether it was said into the microphone."""


class _Planner:
    """Counts what is given to the model, without encoding anything."""

    def __init__(self, runner: Runner, slices: int) -> None:
        self._runner = runner
        self._slices = slices
        """Most of a picture in a typed message."""
        self._pictures: list[tuple[Tensor, int]] = []
        self._sounds: list[tuple[Tensor, bool]] = []
        self._messages: list[tuple[Role, list[PromptPart]]] = []

    @property
    def planned(self) -> PlannedMessages:
        messages = [PromptMessage(role, tuple(parts)) for role, parts in self._messages]
        return PlannedMessages(messages, self._pictures, self._sounds)

    def give(self, given: Given) -> None:
        match given:
            case ShownPicture():
                if given.rgb.numel():
                    self._look(given.rgb, given.slices)
            case SpokenTurn():
                if len(given.sound):
                    self._listen(given.sound)
            case DecodedItem():
                self._end_line(given)
                for part in given.parts:
                    self._add(part, given.role)

    def _end_line(self, item: DecodedItem) -> None:
        """Keep the words of an item apart from those of the one before."""
        role, parts = self._messages[-1] if self._messages else ("", [])
        if role == item.role and parts and item.parts:
            if isinstance(parts[-1], str) and isinstance(item.parts[0], str):
                parts.append("\n")

    def _parts(self, role: Role) -> list[PromptPart]:
        """Those of the newest message, which goes on as long as one speaks."""
        if not self._messages or self._messages[-1][0] != role:
            self._messages.append((role, []))
        return self._messages[-1][1]

    def _look(self, picture: Tensor, slices: int, role: Role = "user") -> None:
        plan = self._runner.plan_picture(picture, slices)
        self._parts(role).append(PromptPicture(plan.columns, plan.rows))
        self._pictures.append((picture, slices))

    def _hear(self, sound: Tensor, role: Role) -> None:
        count = self._runner.count_sound(len(sound))
        # A file may hold less than one embedding's tenth of a second, or no sample at all.
        if count:
            self._parts(role).append(PromptSound(count))
            self._sounds.append((sound, False))

    def _listen(self, speech: Tensor) -> None:
        # The model was trained with messages as long as a first chunk at least.
        least = first_fill(self._runner.model.config.unit.samples(INPUT_HZ))
        lacking = max(0, least - len(speech))
        padded = torch.nn.functional.pad(speech, (lacking, 0))
        self._parts("user").append(PromptSound(self._runner.count_sound(len(padded))))
        self._sounds.append((padded, True))

    def _add(self, part: DecodedPart, role: Role) -> None:
        match part:
            case str():
                self._parts(role).append(part)
            case DecodedPicture():
                self._look(part.rgb, part.max_slices or self._slices, role)
            case DecodedSound():
                self._hear(part.sound, role)
            case FunctionCalled():
                parts = self._parts("assistant")
                parts += replayed_call(part.name, part.arguments, behind=bool(parts))
            case FunctionReturned():
                parts = self._parts("user")
                parts += response(part.output, behind=bool(parts))
            case Clip():
                for second in part.seconds:
                    self._look(second.picture, 1, role)
                    if second.sound is not None:
                        self._hear(second.sound, role)


def plan_turn(runner: Runner, given: Sequence[Given]) -> PlannedMessages:
    """Plan the messages that stand between two answers, without encoding anything."""
    parts = [part for item in given if isinstance(item, DecodedItem) for part in item.parts]
    planner = _Planner(runner, 1 if any(isinstance(part, Clip) for part in parts) else TURN_SLICES)
    for one in given:
        planner.give(one)
    return planner.planned


def encode_turn(
    runner: Runner, planned: PlannedMessages, *, in_blocks: bool
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
    for is_speech, group in groupby(planned.sounds, key=itemgetter(1)):
        alike = [sound for sound, _ in group]
        for start in range(0, len(alike), BATCH):
            if images or sounds:
                yield
            heard = alike[start : start + BATCH]
            sounds += runner.hear_whole(heard, in_blocks=in_blocks and not is_speech)
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
