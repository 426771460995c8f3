"""Mel filter banks and the log-mel spectra that voice preparation needs, on plain torch.

Source: the Slaney auditory toolbox's mel scale (as in librosa); whisper and matcha mel spectra.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR_HZ = 1000.0
HZ_PER_MEL = 200.0 / 3
LOG_STEP = math.log(6.4) / 27


def _to_mel(hz: float) -> float:
    if hz < LINEAR_HZ:
        return hz / HZ_PER_MEL
    return LINEAR_HZ / HZ_PER_MEL + math.log(hz / LINEAR_HZ) / LOG_STEP


def _to_hz(mel: Tensor) -> Tensor:
    knee = LINEAR_HZ / HZ_PER_MEL
    above = LINEAR_HZ * torch.exp(LOG_STEP * (mel - knee))
    return torch.where(mel < knee, mel * HZ_PER_MEL, above)


@cache
def slaney_filters(rate: int, fft_size: int, bands: int, low: float, high: float) -> Tensor:
    """Triangles [bands, fft_size/2 + 1] of equal area on the Slaney mel scale, float32."""
    edges = torch.linspace(_to_mel(low), _to_mel(high), bands + 2, dtype=torch.float64)
    hz = _to_hz(edges)
    bins = torch.linspace(0, rate / 2, fft_size // 2 + 1, dtype=torch.float64)
    slopes = hz[:, None] - bins  # [bands + 2, bins]
    widths = hz.diff()[:, None]
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    area = 2 / (hz[2:] - hz[:-2])
    return (torch.minimum(rising, falling).clamp(min=0) * area[:, None]).float()


def whisper_log_mel(samples: Tensor, bands: int) -> Tensor:
    """Log-mel [bands, N // 160] of 16 kHz samples [N] as the speech tokenizer takes it."""
    window = torch.hann_window(400)
    spectrum = torch.stft(samples, 400, 160, window=window, return_complex=True)[:, :-1]
    mel = slaney_filters(16_000, 400, bands, 0.0, 8000.0) @ spectrum.abs().square()
    log = mel.clamp(min=1e-10).log10()
    return (torch.maximum(log, log.max() - 8) + 4) / 4


def prompt_mel(samples: Tensor) -> Tensor:
    """Natural-log mel [N // 480, 80] of 24 kHz samples [N]: what the flow continues."""
    size, hop, bands = 1920, 480, 80
    pad = (size - hop) // 2
    padded = F.pad(samples[None], (pad, pad), mode="reflect")[0]
    window = torch.hann_window(size)
    spectrum = torch.stft(padded, size, hop, window=window, center=False, return_complex=True)
    magnitude = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()
    mel = slaney_filters(24_000, size, bands, 0.0, 8000.0) @ magnitude
    return mel.clamp(min=1e-5).log().T
