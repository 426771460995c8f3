"""Change of sampling rate by a windowed sinc, exact rational ratio. Source: J. O. Smith, CCRMA."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
"""Of the lower of the two Nyquist frequencies."""


def resample(samples: Tensor, source: int, target: int) -> Tensor:
    """Samples [..., N] at `source` Hz -> [..., ceil(N * target / source)] at `target` Hz."""
    if source == target:
        return samples
    common = math.gcd(source, target)
    down, up = source // common, target // common
    kernel, width = _kernels(down, up)
    flat = samples.reshape(-1, 1, samples.shape[-1])
    phases = F.conv1d(F.pad(flat, (width, width + down)), kernel, stride=down)  # [B, up, M]
    out = phases.transpose(1, 2).flatten(1)
    length = -(-up * samples.shape[-1] // down)
    return out[:, :length].reshape(*samples.shape[:-1], length)


@cache
def _kernels(down: int, up: int) -> tuple[Tensor, int]:
    """A filter for each output phase [up, 1, 2 * width + down], and the width on either side."""
    cutoff = min(down, up) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * down / cutoff)
    at = torch.arange(-width, width + down, dtype=torch.float64)[None, None] / down
    phase = torch.arange(0, -up, -1, dtype=torch.float64)[:, None, None] / up
    t = ((phase + at) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = (t * math.pi / ZERO_CROSSINGS / 2).cos().square()
    return (torch.sinc(t) * window * (cutoff / down)).float(), width
