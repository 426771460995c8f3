"""Filter-bank energies as the speaker network was trained with.

Source: the fbank features of Kaldi, povey window.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

RATE = 16_000
FRAME, SHIFT, FFT_SIZE, BANDS = 400, 160, 512, 80
PREEMPHASIS = 0.97
LOW_HZ, HIGH_HZ = 20.0, 8000.0


def fbank(samples: Tensor) -> Tensor:
    """Log energies [frames, 80] of 16 kHz samples [N] in [-1, 1]; N of at least 25 ms."""
    if len(samples) < FRAME:
        raise ValueError(f"{len(samples)} samples make no frame of {FRAME}")
    frames = samples.unfold(0, FRAME, SHIFT)  # [T, FRAME]
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = F.pad(frames[:, None], (1, 0), mode="replicate")[:, 0, :-1]
    frames = (frames - PREEMPHASIS * before) * torch.hann_window(FRAME, periodic=False).pow(0.85)
    power = torch.fft.rfft(frames, n=FFT_SIZE).abs().square()[:, :-1]
    out: Tensor = (power @ _filters().T).clamp(min=torch.finfo(torch.float32).eps).log()
    return out


@cache
def _filters() -> Tensor:
    """Triangles [80, 256], linear in mel over the bins below half the rate."""

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * (1 + hz / 700.0).log()

    ends = mel(torch.tensor([LOW_HZ, HIGH_HZ]))
    step = (ends[1] - ends[0]) / (BANDS + 1)
    left = ends[0] + torch.arange(BANDS)[:, None] * step
    bins = mel(torch.arange(FFT_SIZE // 2) * (RATE / FFT_SIZE))
    rising, falling = (bins - left) / step, (left + 2 * step - bins) / step
    return torch.minimum(rising, falling).clamp(min=0)
