"""What a call of the vocoder does with each row of a batch, counted on the host.

Rows with equal plans have equal shapes. Rows whose plans differ run together in shapes that have
room for all: each then has counts of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.ragged import Count, cut

DELAY_FRAMES = 8
"""Mel frames that the stream lags behind what it was given, until its end."""
HISTORY_FRAMES = 31
"""Frames before the new ones that the causal filter is given again; its layers reach 22 back."""
MEL_FRAMES = HISTORY_FRAMES + DELAY_FRAMES
"""Frames that are needed again at most."""


@dataclass(frozen=True)
class VoiceStream:
    """One turn's counters, in frames from the beginning of the turn."""

    begin: int = 0
    """The first frame that the slot's row keeps."""
    received: int = 0
    sourced: int = 0
    """Those that have an excitation for good."""
    emitted: int = 0
    ended: bool = False

    @property
    def kept(self) -> int:
        """Frames in the slot's row."""
        return self.received - self.begin

    def after(self, frames: int, last: bool, *, lag: int, history: int) -> VoiceStream:
        """Where a call with so many frames takes it.

        `lag`: frames that F0 looks ahead; `history`: heard frames that are needed again.
        """
        received = self.received + frames
        emitted = received if last else max(self.emitted, received - DELAY_FRAMES)
        return VoiceStream(
            begin=max(emitted - history, 0),
            received=received,
            sourced=received if last else max(self.sourced, received - lag),
            emitted=emitted,
            ended=last,
        )


@dataclass(frozen=True)
class Plan:
    """What a call does with a row, in mel frames."""

    kept: int
    """Of the calls before; what follows counts from the first of them."""
    frames: int
    """New ones."""
    sourced: int
    """Those whose excitation is kept, too."""
    f0_first: int
    """Where the input of F0 begins."""
    f0_history: int
    """Frames of that input whose F0 was known before."""
    f0_count: int
    """Frames that get an F0."""
    forgotten: int
    """What the next call does not need."""
    last: bool

    def numbers(self) -> list[int]:
        return [getattr(self, name) for name in NUMBERS]

    def holds(self, other: Plan) -> bool:
        """Return whether a row with the other plan has room in this one's shapes."""
        mine, theirs = self.numbers(), other.numbers()
        return self.last >= other.last and all(a >= b for a, b in zip(mine, theirs, strict=True))

    @staticmethod
    def room(plans: Sequence[Plan]) -> Plan:
        """The least that holds all these."""
        columns = zip(*(plan.numbers() for plan in plans), strict=True)
        most = {name: max(column) for name, column in zip(NUMBERS, columns, strict=True)}
        return Plan(**most, last=any(plan.last for plan in plans))


NUMBERS = tuple(field.name for field in fields(Plan) if field.name != "last")


@dataclass(frozen=True)
class Shape:
    """What decides the shapes of a call."""

    rows: int
    plan: Plan
    is_ragged: bool = False
    """Each row has a plan of its own, for which `plan` is the room."""


class VocoderState:
    """Tails and counters of all slots."""

    def __init__(self, config: VocoderConfig, slots: int, like: Tensor) -> None:
        rows, samples = slots + 1, MEL_FRAMES * config.frame_samples
        self.mel = like.new_zeros(rows, config.num_mels, MEL_FRAMES)
        self.source = like.new_zeros(rows, samples)
        self.speech = like.new_zeros(
            rows, 0 if config.causal else DELAY_FRAMES * config.frame_samples
        )
        self.carry = like.new_zeros(rows, config.num_harmonics + 1, dtype=torch.float64)
        """Phase of the harmonics in cycles (causal generation only)."""
        self.spare = slots
        self.warm: set[Shape] = set()
        """What there are graphs for."""
        self.streams = [VoiceStream() for _ in range(slots)]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.mel, self.source, self.speech, self.carry

    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def open(self, slot: int) -> None:
        """Begin a turn."""
        self.streams[slot] = VoiceStream()
        self.carry[slot].zero_()

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.streams[slot] = VoiceStream()
        for tensor in self.tensors:
            tensor[slot].zero_()


class Rows:
    """The rows of a batch, on the device."""

    def __init__(self, plan: Plan, index: Tensor) -> None:
        """`index` [2, B]: slots and samples of the turn where the excitation begins; with each
        row's `Plan.numbers` below [2 + numbers, B], `plan` is the room for all."""
        self.plan = plan
        self.slots, self.samples, *own = index.unbind()
        self._own = dict(zip(NUMBERS, own, strict=True)) if own else {}

    @property
    def keeps(self) -> bool:
        """Whether there is a row that goes on."""
        return bool(self._own) or not self.plan.last

    def count(self, name: str) -> Count:
        """By its name in `Plan`."""
        return Count(getattr(self.plan, name), self._own.get(name))


@dataclass(frozen=True)
class Wave:
    """What a call gave to its rows."""

    wave: Tensor
    """[B, N] in [-1, 1], from `DELAY_FRAMES` of silence before the first kept frame on."""
    f0: Tensor
    """Hz of the frames whose excitation is new [B, T]."""
    source: Tensor
    """The excitation behind `f0` [B, N]."""


class Generation(Protocol):
    """How a generation of the vocoder streams."""

    def after(self, stream: VoiceStream, frames: int, last: bool) -> VoiceStream:
        """Where a call takes the stream."""

    def plan(self, stream: VoiceStream, frames: int, last: bool) -> Plan:
        """What a call does; raises `ValueError` for what the generation cannot do."""

    def first_sample(self, stream: VoiceStream) -> int:
        """The sample of the turn whose noise a call begins with."""

    def run(self, state: VocoderState, rows: Rows, mel: Tensor, f0: Tensor | None = None) -> Wave:
        """Advance rows by mel [B, C, T], with fixed shapes and without waiting.

        `f0` [B, T] is used in place of the predicted one.
        """


def noise_from(table: Tensor, samples: Tensor, count: int) -> Tensor:
    """Noise [B, count, harmonics], each row from its own sample [B] on."""
    steps = torch.arange(count, device=table.device)
    return table[(samples[:, None] + steps) % len(table)]


def keep(store: Tensor, rows: Rows, x: Tensor, first: Count) -> None:
    """Put x [B, ..., T] from `first` on to the beginning of the slots' rows of `store`."""
    size = store.shape[-1]
    if first.own is None:
        size = min(size, x.shape[-1] - first.most)
    store[..., :size].index_copy_(0, rows.slots, cut(x, first, size))
