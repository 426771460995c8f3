"""One call of a vocoder for rows whose streams are alike: all shapes, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.models.vocoder_state import VocoderState, VoiceStream


@dataclass(frozen=True)
class Step:
    """What decides the shapes of a call."""

    before: VoiceStream
    """Stands for the streams, see `VoiceStream.typical`."""
    frames: int
    last: bool
    f0: Tensor | None = None
    """[B, T] in place of the predicted one, in tests."""

    def key(self) -> tuple[object, ...]:
        return (*self.before.key(), self.frames, self.last)


@dataclass(frozen=True)
class Wave:
    """What a call gave to its rows."""

    wave: Tensor
    """[B, N] in [-1, 1]"""
    f0: Tensor
    """Hz of the frames whose excitation is new [B, T]."""
    source: Tensor
    """The excitation behind `f0`, or of the whole call where that is one piece [B, N]."""


class Generation(Protocol):
    """How a generation of the vocoder streams."""

    def after(self, step: Step) -> VoiceStream:
        """Where a call takes the stream."""

    def first_sample(self, stream: VoiceStream) -> int:
        """The sample of the turn whose noise a call begins with."""

    def run(
        self, state: VocoderState, step: Step, rows: Tensor, samples: Tensor, mel: Tensor
    ) -> Wave:
        """Advance rows [B] by mel [B, C, T], with fixed shapes and without waiting."""


def noise_from(table: Tensor, samples: Tensor, count: int) -> Tensor:
    """Noise [B, count, harmonics], each row from its own sample [B] on."""
    steps = torch.arange(count, device=table.device)
    return table[(samples[:, None] + steps) % len(table)]
