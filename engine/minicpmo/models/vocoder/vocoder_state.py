"""The vocoder's streaming state: a row of tails per slot, and their counters.

A spare row behind those of the slots serves padding and warm-up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.streaming import DELAY_FRAMES, MEL_FRAMES, Shape, VoiceStream


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
