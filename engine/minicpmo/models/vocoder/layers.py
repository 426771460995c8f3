"""Layers that both vocoder generations are built of: residual blocks, the STFT.

Source: HiFTNet (arXiv 2309.09493), CosyVoice 2 and 3 inference code. Weight norms are folded.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.kernels.vocoder import add, add_snake, snake
from engine.minicpmo.models.vocoder.convs import PaddedConv
from engine.minicpmo.models.vocoder.ragged import Count, ended

MAX_MAGNITUDE = 100.0
LEAST_WEIGHT = 1e-3
"""Of windows squared and summed up; less only behind the end of a row."""


def repeat(x: Tensor, times: int) -> Tensor:
    """Each of the last dimension's values `times` times."""
    return x.unsqueeze(-1).expand(*x.shape, times).flatten(-2)


class Snake(nn.Module):
    """The weight of one snake."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))


class ResidualPair(NamedTuple):
    """A residual pair, in the order of its steps."""

    first: Snake
    dilated: PaddedConv
    second: Snake
    plain: PaddedConv


class ResBlock(nn.Module):
    """Residual pairs of a dilated and a plain convolution."""

    def __init__(
        self, channels: int, kernel: int, dilations: tuple[int, ...], *, causal: bool
    ) -> None:
        super().__init__()

        def conv(dilation: int) -> PaddedConv:
            return PaddedConv(channels, channels, kernel, causal=causal, dilation=dilation)

        self.pairs = [
            ResidualPair(Snake(channels), conv(dilation), Snake(channels), conv(1))
            for dilation in dilations
        ]
        self.convs1 = nn.ModuleList(pair.dilated for pair in self.pairs)
        self.convs2 = nn.ModuleList(pair.plain for pair in self.pairs)
        self.activations1 = nn.ModuleList(pair.first for pair in self.pairs)
        self.activations2 = nn.ModuleList(pair.second for pair in self.pairs)

    def forward(self, x: Tensor, count: Count, bias: Tensor | None = None) -> Tensor:
        """Of x, or x + bias, [B, C, T]: `count` in each row; what it returns has zeros behind them.

        So has an x that comes without a bias.
        """
        own, begin = count.own, self.pairs[0]
        alpha, lead = begin.first.alpha, begin.dilated.lead
        if bias is None:
            active = snake(x, None, alpha, own, lead)
        else:
            x, active = add_snake(x, None, bias, alpha, own, lead)
        for pair, following in zip_longest(self.pairs, self.pairs[1:]):
            inner = pair.dilated(active)
            inner = snake(inner, pair.dilated.bias, pair.second.alpha, own, pair.plain.lead)
            more, bias = pair.plain(inner), pair.plain.bias
            if following is None:
                x = add(x, more, bias, own)
            else:
                alpha, lead = following.first.alpha, following.dilated.lead
                x, active = add_snake(x, more, bias, alpha, own, lead)
        return x


class Spectrum:
    """Short-time Fourier transform and its inverse, periodic Hann window, centred.

    As products with small matrices: `torch.istft` waits for the device, and plans of an FFT
    library may not outlive a captured graph.
    """

    def __init__(self, size: int, hop: int, channels: int = 0) -> None:
        """`channels` that `forward` gives if more than size + 2, with zeros in those added."""
        assert size % hop == 0, f"size {size} is no multiple of hop {hop}"
        self.size, self.hop, self.channels = size, hop, max(channels, size + 2)
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Analysis [size, channels], synthesis [size + 2, size] and the window squared [size]."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            wide = torch.float64
            window = torch.hann_window(self.size, dtype=wide)
            spectrum = torch.fft.rfft(torch.eye(self.size, dtype=wide))
            analysis = window[:, None] * torch.cat([spectrum.real, spectrum.imag], dim=1)
            analysis = F.pad(analysis, (0, self.channels - analysis.shape[1]))
            unit = torch.eye(self.size // 2 + 1, dtype=wide)
            zero = torch.zeros_like(unit)
            bins = torch.cat([torch.complex(unit, zero), torch.complex(zero, unit)])
            synthesis = torch.fft.irfft(bins, n=self.size) * window
            tables = (analysis, synthesis, window.square())
            self._tables[key] = tuple(t.to(like.device, like.dtype) for t in tables)  # type: ignore[assignment]
        return self._tables[key]

    def forward(self, x: Tensor, count: Count) -> Tensor:
        """x [B, N], `count` samples in each row -> real and imaginary parts
        [B, channels, N/hop + 1], zeros behind a row's own."""
        edge = self.size // 2
        padded = F.pad(x, (edge, edge), mode="reflect")
        if count.own is not None:
            ends = edge + count.own[:, None]
            places = torch.arange(padded.shape[1], device=x.device)
            mirrored = torch.where(places < ends, places, 2 * ends - 2 - places)
            padded = padded.gather(1, mirrored.clamp(min=0))
        parts = (padded.unfold(-1, self.size, self.hop) @ self._matrices(x)[0]).transpose(1, 2)
        return ended(parts, self._frames(count))

    def inverse(self, magnitude: Tensor, phase: Tensor, count: Count) -> Tensor:
        """magnitude, phase [B, size/2 + 1, M] -> samples [B, (M - 1) * hop], `count` in each
        row."""
        _, synthesis, squared = self._matrices(magnitude)
        magnitude = ended(magnitude.clamp(max=MAX_MAGNITUDE), self._frames(count))
        parts = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)
        sound = self._overlap(parts.transpose(1, 2) @ synthesis)
        alike = magnitude[:1, 0] if count.own is None else magnitude[:, 0]
        there = ended(torch.ones_like(alike), self._frames(count))[..., None]
        weight = self._overlap(squared * there)
        edge = self.size // 2
        return sound[:, edge:-edge] / weight[:, edge:-edge].clamp(min=LEAST_WEIGHT)

    def _frames(self, count: Count) -> Count:
        """Frames of so many samples."""
        own = None if count.own is None else count.own // self.hop + 1
        return Count(count.most // self.hop + 1, own)

    def _overlap(self, frames: Tensor) -> Tensor:
        """Sum frames [B, M, size] a hop apart: [B, (M - 1) * hop + size]."""
        count = self.size // self.hop
        parts = frames.reshape(*frames.shape[:2], count, self.hop)
        shifted = [F.pad(parts[:, :, i], (0, 0, i, count - 1 - i)) for i in range(count)]
        out: Tensor = torch.stack(shifted).sum(0).flatten(1)
        return out


class SourceMix(nn.Module):
    """Mixes the harmonics of a source to one signal."""

    def __init__(self, harmonics: int) -> None:
        super().__init__()
        self.l_linear = nn.Linear(harmonics, 1)

    def forward(self, waves: Tensor) -> Tensor:
        """waves [B, N, harmonics] -> [B, N]."""
        out: Tensor = self.l_linear(waves).tanh().squeeze(-1)
        return out
