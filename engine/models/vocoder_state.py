"""The vocoder's streaming state: a row of tails per slot and counters on the host.

A spare row behind those of the slots serves padding and warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.models.vocoder_config import VocoderConfig

DELAY_FRAMES = 8
"""Mel frames that the stream lags behind what it was given, until its end."""
HISTORY_FRAMES = 31
"""Frames before the new ones that the causal filter is given again; its layers reach 22 back."""
MEL_FRAMES = HISTORY_FRAMES + DELAY_FRAMES
"""Frames that are needed again at most."""

FAR = 2 * HISTORY_FRAMES
"""Where the kept frames begin in a stream that stands for all that have forgotten their start."""


@dataclass
class VoiceStream:
    """One turn's counters. Frames and samples are counted from the beginning of the turn."""

    mel: int = 0
    """Frames kept in the slot's row."""
    source: int = 0
    """Samples of the excitation kept."""
    speech: int = 0
    """Samples kept that the next call is faded into (original generation only)."""
    received: int = 0
    sourced: int = 0
    """Frames that have an excitation."""
    emitted: int = 0
    ended: bool = False

    @property
    def start(self) -> int:
        """The frame that the kept ones begin with."""
        return self.received - self.mel

    def typical(self) -> VoiceStream:
        """The stream that stands for all whose next call has the same shapes."""
        if not self.start:
            return replace(self)
        shift = FAR - self.start
        return replace(
            self,
            received=self.received + shift,
            sourced=self.sourced + shift,
            emitted=self.emitted + shift,
        )

    def key(self) -> tuple[int, ...]:
        """Streams with equal keys can share a batch."""
        it = self.typical()
        return it.mel, it.source, it.speech, it.received, it.sourced, it.emitted

    def advance(self, before: VoiceStream, after: VoiceStream) -> None:
        """Do what takes the stream that stands for this one from `before` to `after`."""
        self.received += after.received - before.received
        self.sourced += after.sourced - before.sourced
        self.emitted += after.emitted - before.emitted
        self.mel, self.source, self.speech = after.mel, after.source, after.speech
        self.ended = after.ended


class VocoderState:
    """Tails and counters of all slots."""

    def __init__(self, config: VocoderConfig, slots: int, like: Tensor) -> None:
        rows, samples = slots + 1, HISTORY_FRAMES + DELAY_FRAMES
        frame = config.frame_samples
        self.mel = like.new_zeros(rows, config.num_mels, MEL_FRAMES)
        self.source = like.new_zeros(rows, samples * frame)
        self.speech = like.new_zeros(rows, 0 if config.causal else DELAY_FRAMES * frame)
        self.carry = like.new_zeros(rows, config.num_harmonics + 1, dtype=torch.float64)
        """Phase of the harmonics in cycles (causal generation only)."""
        self.spare = slots
        self.warm: set[tuple[object, ...]] = set()
        """Shapes that there are graphs for."""
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
