"""The HiFT networks: F0, harmonic source and the filter that makes samples of mel and source.

One class serves both generations; they share the names of their weights and differ in padding,
in how they upsample and in how phase and noise of the source run on. No streaming state here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.kernels.vocoder import add, leaky_mean, led
from engine.minicpmo.models.flow.cells import convolve, packed_kernel
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.convs import (
    Conv,
    Downsampler,
    PaddedConv,
    RepeatUpsampler,
    TransposedUpsampler,
    Upsampler,
)
from engine.minicpmo.models.vocoder.layers import ResBlock, SourceMix, Spectrum, repeat
from engine.minicpmo.models.vocoder.ragged import Count, ended

F0_LAYERS = 5
F0_KERNEL = 3
POST_KERNEL = 7
ORIGINAL_KERNEL = 7
LAST_SLOPE = 0.01
"""Of the leaky ReLU before the last convolution; the others' is the configuration's."""


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


@dataclass(frozen=True)
class Stage:
    """One step of upsampling: of the sound, of the source's spectrum, and their residual blocks."""

    up: Upsampler
    down: Downsampler
    source: ResBlock
    blocks: list[ResBlock]


class Hift(nn.Module):
    """Weights under the names of `hift.pt`, folded; `prepare` once after loading."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        base, causal, self.bins = config.base_channels, config.causal, config.fft_size // 2 + 1
        # The CUDA kernels read and write channels in fours, tensor cores halves in eights.
        self.spectrum = Spectrum(config.fft_size, config.hop, 8 * -(-2 * self.bins // 8))
        self.m_source = SourceMix(config.num_harmonics + 1)
        self.conv_pre = (
            Conv(config.num_mels, base, config.look_right + 1)
            if causal
            else PaddedConv(config.num_mels, base, ORIGINAL_KERNEL, causal=False)
        )
        rates, down = config.upsample_rates, config.frame_samples // config.hop
        upsampler = RepeatUpsampler if causal else TransposedUpsampler
        self.stages: list[Stage] = []
        for i, (rate, kernel) in enumerate(zip(rates, config.upsample_kernels, strict=True)):
            inputs, outputs = base >> i, base >> (i + 1)
            down //= rate
            up = upsampler(inputs, outputs, kernel, rate)
            source = config.source_kernels[i], config.source_dilations[i]
            stage = Stage(
                up,
                Downsampler(2 * self.bins, outputs, down, causal=causal),
                ResBlock(outputs, *source, causal=causal),
                [
                    ResBlock(outputs, size, dilations, causal=causal)
                    for size, dilations in zip(config.kernels, config.dilations, strict=True)
                ],
            )
            self.stages.append(stage)
        self.ups = nn.ModuleList(stage.up for stage in self.stages)
        self.source_downs = nn.ModuleList(stage.down for stage in self.stages)
        self.source_resblocks = nn.ModuleList(stage.source for stage in self.stages)
        self.resblocks = nn.ModuleList(block for stage in self.stages for block in stage.blocks)
        self.conv_post = PaddedConv(base >> len(rates), 2 * self.bins, POST_KERNEL, causal=causal)
        self.f0_predictor = F0Predictor(config)

    def prepare(self, body: torch.dtype = torch.float32) -> None:
        """Lay the weights out as they are used, once after loading.

        `body`: of the convolutions between the first and the last, and what goes through them.
        cuDNN multiplies float32 in TF32, which has the mantissa of float16, in twice the time.
        """
        self.body = body
        self.f0_predictor.prepare()
        for part in self.modules():
            if isinstance(part, Downsampler):
                part.prepare(inputs=self.spectrum.channels)
            elif part is self.conv_post:
                self.conv_post.prepare(outputs=self.spectrum.channels)
            elif isinstance(part, Conv | Upsampler):
                part.prepare()
        for stage in self.stages:
            for part in (stage.up, stage.down, stage.source, *stage.blocks):
                for conv in part.modules():
                    if isinstance(conv, Conv | Upsampler):
                        conv.weight = nn.Parameter(conv.weight.to(body), requires_grad=False)

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
        spectrum = self.spectrum.forward(source, count).to(self.body)
        # Layers that look ahead need zeros at a row's end, as convolutions pad the end of a tensor.
        ends = Count(span.most) if config.causal else span
        if drop:
            spectrum = spectrum[..., : -drop * (config.frame_samples // config.hop)]
        x = ended(self.conv_pre(mel) + self.conv_pre.bias[:, None], ends)
        x = led(F.leaky_relu(x, config.slope).to(self.body), self.stages[0].up.lead)
        for stage, following in zip_longest(self.stages, self.stages[1:]):
            is_last = following is None
            ends = ends * stage.up.rate + int(is_last)
            excitation = stage.down(led(spectrum, stage.down.lead))
            excitation = stage.source(excitation, ends, stage.down.bias)
            x = add(excitation, stage.up(x), stage.up.bias, ends.own, mirrored=is_last)
            blocks = [block(x, ends) for block in stage.blocks]
            if is_last:
                x = leaky_mean(blocks, LAST_SLOPE, self.conv_post.lead, mel.dtype)
            else:
                x = leaky_mean(blocks, config.slope, following.up.lead)
        x = self.conv_post(x)[:, : 2 * self.bins] + self.conv_post.bias[:, None]
        magnitude, phase = x[:, : self.bins].exp(), x[:, self.bins :].sin()
        samples = self.spectrum.inverse(magnitude, phase, count)
        return samples.clamp(-config.limit, config.limit)

    def smooth_sines(self, f0: Tensor) -> Tensor:
        """The original generation's sines [B, N, harmonics]: phase from 0, linear in between."""
        frame = self.config.frame_samples
        # Large phases are rounded to float32 in this order; another order changes the sound.
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
