"""One call of a vocoder on the device: the rows of a batch, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.minicpmo.models.vocoder.ragged import Count, cut
from engine.minicpmo.models.vocoder.streaming import NUMBERS, Plan, VoiceStream
from engine.minicpmo.models.vocoder.vocoder_state import VocoderState


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
