"""The HiFT networks: F0, harmonic source and the filter that makes samples of mel and source.

One class serves both generations; they share the names of their weights and differ in padding,
in how they upsample and in how phase and noise of the source run on. No streaming state here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.flow_cells import convolve, packed_kernel
from engine.models.hift_layers import (
    Downsampler,
    PaddedConv,
    ResBlock,
    SourceMix,
    Spectrum,
    Upsampler,
    repeat,
)
from engine.models.ragged import Count, ended
from engine.models.vocoder_config import VocoderConfig

F0_LAYERS = 5
F0_KERNEL = 3
POST_KERNEL = 7
ORIGINAL_KERNEL = 7


class F0Predictor(nn.Module):
    """Fundamental frequency of mel frames, in float64; the causal one sees 3 ahead.

    F0 is summed up in the phases of nine harmonics, so its last bits are heard. Convolutions of
    float32 lose half of theirs where cuDNN runs them in TF32, its default.
    """

    LEFT = 8
    """Frames of history that the causal layers behind the first one reach back."""
    RIGHT = 3

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.causal = config.causal
        layers: dict[str, nn.Module] = {}
        for i in range(F0_LAYERS):
            inputs = config.num_mels if i == 0 else config.f0_channels
            size = self.RIGHT + 1 if self.causal and i == 0 else F0_KERNEL
            layers[str(2 * i)] = nn.Conv1d(inputs, config.f0_channels, size)
        self.condnet = nn.ModuleDict(layers)
        self.classifier = nn.Linear(config.f0_channels, 1)

    def prepare(self) -> None:
        """Make the convolutions matrices, once after loading."""
        self.double()
        self.kernels: list[tuple[Tensor, Tensor]] = []
        for conv in self.condnet.values():
            assert isinstance(conv, nn.Conv1d) and conv.bias is not None
            self.kernels.append((packed_kernel(conv.weight), conv.bias))
        del self.condnet

    def forward(self, mel: Tensor, count: Count | None = None) -> Tensor:
        """mel [B, C, T] -> Hz [B, T], of the causal generation [B, T - 3]; float32.

        `count`: frames of each row, zeros behind them.
        """
        x = mel.transpose(1, 2).double()
        for place, (kernel, bias) in enumerate(self.kernels):
            if not self.causal:
                x = F.pad(x, (0, 0, 1, 1))
            elif place:
                x = F.pad(x, (0, 0, F0_KERNEL - 1, 0))
            x = F.elu(convolve(x, kernel, bias))
            if count is not None:
                x = ended(x.transpose(1, 2), count).transpose(1, 2)
        out: Tensor = self.classifier(x).squeeze(-1).abs().to(mel.dtype)
        return out


class Hift(nn.Module):
    """Weights under the names of `hift.pt`, folded."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.spectrum = Spectrum(config.fft_size, config.hop)
        self.m_source = SourceMix(config.num_harmonics + 1)
        bins = config.fft_size + 2
        base, causal = config.base_channels, config.causal
        self.conv_pre = (
            nn.Conv1d(config.num_mels, base, config.look_right + 1)
            if causal
            else PaddedConv(config.num_mels, base, ORIGINAL_KERNEL, causal=False)
        )
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        self.source_downs, self.source_resblocks = nn.ModuleList(), nn.ModuleList()
        rates, down = config.upsample_rates, config.frame_samples // config.hop
        for i, (rate, kernel) in enumerate(zip(rates, config.upsample_kernels, strict=True)):
            inputs, outputs = base >> i, base >> (i + 1)
            down //= rate
            self.ups.append(
                Upsampler(inputs, outputs, kernel, rate)
                if causal
                else nn.ConvTranspose1d(inputs, outputs, kernel, rate, (kernel - rate) // 2)
            )
            self.source_downs.append(
                Downsampler(bins, outputs, down) if causal else _plain_down(bins, outputs, down)
            )
            source = config.source_kernels[i], config.source_dilations[i]
            self.source_resblocks.append(ResBlock(outputs, *source, causal=causal))
            self.resblocks.extend(
                ResBlock(outputs, size, dilations, causal=causal)
                for size, dilations in zip(config.kernels, config.dilations, strict=True)
            )
        self.conv_post = PaddedConv(base >> len(rates), bins, POST_KERNEL, causal=causal)
        self.f0_predictor = F0Predictor(config)

    def source(self, sines: Tensor, f0: Tensor, noise: Tensor) -> Tensor:
        """The excitation [B, N] of sines and noise [B, N, harmonics] and f0 [B, N / frame]."""
        config = self.config
        voiced = (f0 > config.voiced_hz).to(sines.dtype)
        voiced = repeat(voiced, config.frame_samples)[..., None]
        amplitude = config.sine_amplitude
        level = voiced * config.noise_std + (1 - voiced) * amplitude / 3
        out: Tensor = self.m_source(amplitude * sines * voiced + level * noise)
        return out

    def increments(self, f0: Tensor) -> Tensor:
        """Cycles per sample [B, T, harmonics] of the harmonics of f0 [B, T]."""
        numbers = torch.arange(
            1, self.config.num_harmonics + 2, device=f0.device, dtype=torch.float32
        )
        return (f0[..., None] * numbers / self.config.sampling_rate) % 1

    def filter(
        self, mel: Tensor, source: Tensor, drop: int = 0, span: Count | None = None
    ) -> Tensor:
        """Samples [B, N] of mel [B, C, T] and source [B, N + drop frames].

        The causal generation's mel has `look_right` frames (or zeros in their place) more than
        the samples wanted; `drop` frames of the source's end only serve its spectrum there.
        `span`: frames of each row's source, where rows end before the tensors do; its mel has
        zeros there.
        """
        config = self.config
        span = Count(source.shape[1] // config.frame_samples) if span is None else span
        count = span * config.frame_samples
        spectrum = self.spectrum.forward(source, count)
        # What looks ahead must find the zeros at a row's end that convolutions put at a tensor's.
        ends = Count(span.most) if config.causal else span
        if drop:
            spectrum = spectrum[..., : -drop * (config.frame_samples // config.hop)]
        x = ended(self.conv_pre(mel), ends)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, config.slope))
            ends = ends * config.upsample_rates[i]
            if i == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")
                ends = ends + 1
            excitation = ended(self.source_downs[i](spectrum), ends)
            x = ended(x, ends) + self.source_resblocks[i](excitation, ends)
            blocks = self.resblocks[i * len(config.kernels) : (i + 1) * len(config.kernels)]
            x = sum(block(x, ends) for block in blocks) / len(config.kernels)
        # The default slope here, unlike the one above.
        x = self.conv_post(F.leaky_relu(x))
        bins = config.fft_size // 2 + 1
        samples = self.spectrum.inverse(x[:, :bins].exp(), x[:, bins:].sin(), count)
        return samples.clamp(-config.limit, config.limit)

    def smooth_sines(self, f0: Tensor) -> Tensor:
        """The original generation's sines [B, N, harmonics]: phase from 0, linear in between."""
        frame = self.config.frame_samples
        # Large phases are rounded to float32 in this order; another order is another sound.
        phase = torch.cumsum(self.increments(f0), dim=1) * 2 * math.pi
        phase = F.interpolate(
            phase.transpose(1, 2) * frame, scale_factor=float(frame), mode="linear"
        )
        return phase.transpose(1, 2).sin()

    def stepped_sines(self, f0: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        """The causal generation's sines [B, N, harmonics], constant in a frame, and new carry.

        carry [B, harmonics], float64: the phase in cycles where the frames before ended.
        """
        frame = self.config.frame_samples
        cycles = torch.cumsum(self.increments(f0).double(), dim=1) * frame + carry[:, None]
        cycles = cycles % 1
        sines = (2 * math.pi * cycles).sin().to(f0.dtype)
        return sines[:, :, None].expand(-1, -1, frame, -1).flatten(1, 2), cycles[:, -1]


def _plain_down(inputs: int, outputs: int, rate: int) -> nn.Conv1d:
    if rate == 1:
        return nn.Conv1d(inputs, outputs, 1)
    return nn.Conv1d(inputs, outputs, 2 * rate, rate, rate // 2)
