"""Layers that both vocoder generations are built of: convolutions, residual blocks, the STFT.

Source: HiFTNet (arXiv 2309.09493), CosyVoice 2 and 3 inference code. Weight norms are folded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.fused import snake
from engine.models.ragged import Count, ended

SNAKE_EPS = 1e-9
MAX_MAGNITUDE = 100.0
LEAST_WEIGHT = 1e-3
"""Of windows squared and summed up; less only behind the end of a row."""


def repeat(x: Tensor, times: int) -> Tensor:
    """Each of the last dimension's values `times` times."""
    return x.unsqueeze(-1).expand(*x.shape, times).flatten(-2)


class PaddedConv(nn.Conv1d):
    """A convolution that zero-pads its input: to the left if causal, else on both sides."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, causal: bool, dilation: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation)
        span = (kernel - 1) * dilation
        self.pads = (span, 0) if causal else (span // 2, span - span // 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pads))


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return snake(x, self.alpha, SNAKE_EPS)


class ResBlock(nn.Module):
    """Residual pairs of a dilated and a plain convolution."""

    def __init__(
        self, channels: int, kernel: int, dilations: tuple[int, ...], *, causal: bool
    ) -> None:
        super().__init__()

        def conv(dilation: int) -> PaddedConv:
            return PaddedConv(channels, channels, kernel, causal=causal, dilation=dilation)

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor, count: Count) -> Tensor:
        """x [B, C, T] of `count` in each row, with zeros behind them; so is what it returns."""
        parts = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for first, dilated, second, plain in parts:
            inner = ended(dilated(first(x)), count)
            x = x + ended(plain(second(inner)), count)
        return x


class Upsampler(nn.Conv1d):
    """The causal generation's: repeat each sample, then a convolution that looks back."""

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int) -> None:
        super().__init__(inputs, outputs, kernel)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        x = repeat(x, self.rate)
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class Downsampler(nn.Conv1d):
    """The causal generation's strided convolution, padded on the left only."""

    def __init__(self, inputs: int, outputs: int, rate: int) -> None:
        kernel = 2 * rate if rate > 1 else 1
        super().__init__(inputs, outputs, kernel, stride=rate)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.stride[0] - 1, 0)))


class Spectrum:
    """Short-time Fourier transform and its inverse, periodic Hann window, centred.

    As products with small matrices: `torch.istft` waits for the device, and plans of an FFT
    library may not outlive a captured graph.
    """

    def __init__(self, size: int, hop: int) -> None:
        assert size % hop == 0, f"size {size} is no multiple of hop {hop}"
        self.size, self.hop = size, hop
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Analysis [size, size + 2], synthesis [size + 2, size] and the window squared [size]."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            wide = torch.float64
            window = torch.hann_window(self.size, dtype=wide)
            spectrum = torch.fft.rfft(torch.eye(self.size, dtype=wide))
            analysis = window[:, None] * torch.cat([spectrum.real, spectrum.imag], dim=1)
            unit = torch.eye(self.size // 2 + 1, dtype=wide)
            zero = torch.zeros_like(unit)
            bins = torch.cat([torch.complex(unit, zero), torch.complex(zero, unit)])
            synthesis = torch.fft.irfft(bins, n=self.size) * window
            tables = (analysis, synthesis, window.square())
            self._tables[key] = tuple(t.to(like.device, like.dtype) for t in tables)  # type: ignore[assignment]
        return self._tables[key]

    def forward(self, x: Tensor, count: Count) -> Tensor:
        """x [B, N], `count` samples in each row -> real and imaginary parts
        [B, size + 2, N/hop + 1], zeros behind a row's own."""
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
