"""Mel frames to 24 kHz sound in a stream, for the vocoder generation that the weights are of.

A turn of a session has one `VoiceStream` with its tails and counters. Rows whose tails have equal
lengths run as one batch; a row's sound does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.layers.weight_norm import fold_all
from engine.models.hift import F0Predictor, Hift
from engine.models.vocoder_config import VocoderConfig
from engine.weights import empty, load_state

NOISE_SECONDS = 10
NOISE_SEED = 1
DELAY_FRAMES = 8
"""Mel frames that the stream lags behind what it was given, until its end."""
HISTORY_FRAMES = 31
"""Frames before the new ones that the causal filter is given again; its layers reach 22 back."""


@dataclass
class VoiceStream:
    """One turn's state. Frames and samples are counted from the beginning of the turn."""

    mel: Tensor
    """The last frames [C, T] that are needed again."""
    source: Tensor
    """The last samples of the excitation [N]."""
    speech: Tensor
    """Sound that the next call is faded into (original generation only)."""
    carry: Tensor
    """Phase of the harmonics in cycles, float64 (causal generation only)."""
    received: int = 0
    sourced: int = 0
    """Frames that have an excitation."""
    emitted: int = 0
    ended: bool = False

    def key(self) -> tuple[int, ...]:
        """Streams with equal keys can share a batch."""
        return (
            self.mel.shape[-1],
            len(self.source),
            len(self.speech),
            self.received - self.sourced,
            self.received - self.emitted,
            min(self.sourced, F0Predictor.LEFT),
        )


@dataclass(frozen=True)
class Sound:
    """What one call gave to one row."""

    wave: Tensor
    """[N] in [-1, 1]"""
    f0: Tensor
    """Hz of the frames whose excitation is new [T]."""
    source: Tensor
    """The excitation behind `f0`, or of the whole call where that is one piece [N]."""


@dataclass(frozen=True)
class Push:
    """Frames for one stream; `last` ends it. `f0` replaces the predicted one in tests."""

    stream: VoiceStream
    mel: Tensor
    """[C, T]"""
    last: bool = False
    f0: Tensor | None = None


class Generation(Protocol):
    """How a generation of the vocoder streams."""

    def run(self, pushes: Sequence[Push]) -> list[Sound]:
        """Advance streams with equal keys by equal numbers of frames."""


@dataclass
class Vocoder:
    """A vocoder with its noise; holds nothing of any session."""

    hift: Hift
    noise: Tensor
    """[N, harmonics + 1], indexed by the sample of the turn modulo its length."""
    generation: Generation = field(init=False)

    def __post_init__(self) -> None:
        harmonics = self.hift.config.num_harmonics + 1
        assert self.noise.shape[1] == harmonics, f"noise {self.noise.shape}, {harmonics} harmonics"
        causal = self.hift.config.causal
        self.generation = (
            Causal(self.hift, self.noise) if causal else Original(self.hift, self.noise)
        )

    @property
    def config(self) -> VocoderConfig:
        return self.hift.config

    def open(self) -> VoiceStream:
        """The stream of a new turn."""
        config, like = self.config, self.noise
        return VoiceStream(
            mel=like.new_zeros(config.num_mels, 0),
            source=like.new_zeros(0),
            speech=like.new_zeros(0),
            carry=like.new_zeros(config.num_harmonics + 1, dtype=torch.float64),
        )

    @torch.inference_mode()
    def push(self, pushes: Sequence[Push]) -> list[Sound]:
        """Advance distinct streams; equal shapes run together. Order is kept."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, push in enumerate(pushes):
            if push.stream.ended:
                raise ValueError("the stream has ended")
            key = (push.stream.key(), push.mel.shape[1], push.last, push.f0 is None)
            groups.setdefault(key, []).append(index)
        sounds: dict[int, Sound] = {}
        for members in groups.values():
            results = self.generation.run([pushes[i] for i in members])
            sounds |= dict(zip(members, results, strict=True))
        return [sounds[i] for i in range(len(pushes))]


class Causal:
    """The later generation: bounded history, no seams, phase and noise run on through the turn.

    The filter is given `HISTORY_FRAMES` again instead of keeping a tail for each of its layers:
    more than its receptive field, so the result is the same.
    """

    def __init__(self, hift: Hift, noise: Tensor) -> None:
        self.hift, self.noise = hift, noise
        # The first convolution looks ahead, and the inverse STFT's last frame is not complete.
        self.filter_right = hift.config.look_right + 1

    def run(self, pushes: Sequence[Push]) -> list[Sound]:
        streams, last = [p.stream for p in pushes], pushes[0].last
        first = streams[0]
        start = first.received - first.mel.shape[1]
        mel = torch.cat([torch.stack([s.mel for s in streams]), _mels(pushes)], dim=-1)
        received = start + mel.shape[-1]
        ready = received if last else max(first.sourced, received - F0Predictor.RIGHT)
        f0 = self._f0(pushes, mel[..., max(first.sourced - F0Predictor.LEFT, 0) - start :])
        assert f0.shape[1] == ready - first.sourced, f"{f0.shape[1]} frames of F0, not {ready}"
        fresh = self._excite(streams, f0)
        source = torch.cat([torch.stack([s.source for s in streams]), fresh], dim=-1)
        until = ready if last else max(first.emitted, ready - self.filter_right)
        wave = self._filter(first, mel[..., : ready - start], source, until, last)
        prefix = 0
        if not last and first.received == 0:
            prefix = DELAY_FRAMES * self.hift.config.frame_samples
        sounds = [Sound(F.pad(wave[i], (prefix, 0)), f0[i], fresh[i]) for i in range(len(streams))]
        self._keep(streams, mel, source, (start, received, ready, until), last)
        return sounds

    def _f0(self, pushes: Sequence[Push], mel: Tensor) -> Tensor:
        """F0 of the frames from `sourced` on; mel begins with what the network looks back."""
        if pushes[0].f0 is not None:
            return torch.stack([p.f0 for p in pushes if p.f0 is not None])
        history = min(pushes[0].stream.sourced, F0Predictor.LEFT)
        if pushes[0].last:
            mel = F.pad(mel, (0, F0Predictor.RIGHT))
        if mel.shape[-1] <= F0Predictor.RIGHT:
            return mel.new_zeros(len(mel), 0)
        out: Tensor = self.hift.f0_predictor(mel)[:, history:]
        return out

    def _excite(self, streams: list[VoiceStream], f0: Tensor) -> Tensor:
        """The excitation [B, N] of new frames; moves the carried phases on."""
        if not f0.shape[1]:
            return f0
        carry = torch.stack([s.carry for s in streams])
        sines, carry = self.hift.stepped_sines(f0, carry)
        for stream, phase in zip(streams, carry, strict=True):
            stream.carry = phase
        starts = [s.sourced * self.hift.config.frame_samples for s in streams]
        return self.hift.source(sines, f0, _noise(self.noise, starts, sines))

    def _filter(
        self, first: VoiceStream, mel: Tensor, source: Tensor, until: int, last: bool
    ) -> Tensor:
        """Samples of the frames from `emitted` to `until`; mel and source end together."""
        frame, ahead = self.hift.config.frame_samples, self.hift.config.look_right
        if until <= first.emitted:
            return source.new_zeros(len(source), 0)
        history = min(first.emitted, HISTORY_FRAMES)
        span = until - first.emitted + history + (0 if last else self.filter_right)
        mel, source = mel[..., -span:], source[:, -span * frame :]
        assert mel.shape[-1] == span == source.shape[1] // frame, f"{mel.shape}, {source.shape}"
        if last:
            wave = self.hift.filter(F.pad(mel, (0, ahead)), source)
        else:
            wave = self.hift.filter(mel, source, drop=ahead)
        return wave[:, history * frame : (history + until - first.emitted) * frame]

    def _keep(
        self,
        streams: list[VoiceStream],
        mel: Tensor,
        source: Tensor,
        marks: tuple[int, int, int, int],
        last: bool,
    ) -> None:
        start, received, ready, until = marks
        begin = max(until - HISTORY_FRAMES, 0)
        # F0 looks back less than the filter does and lags less.
        mel = mel[..., min(begin, max(ready - F0Predictor.LEFT, 0)) - start :]
        source = source[:, source.shape[1] - (ready - begin) * self.hift.config.frame_samples :]
        for i, stream in enumerate(streams):
            stream.mel, stream.source = mel[i].clone(), source[i].clone()
            stream.received, stream.sourced, stream.emitted = received, ready, until
            stream.ended = last


class Original:
    """The earlier generation: looks both ways, each call overlaps the one before by 160 ms.

    The halves of its Hamming window sum to 1.08, so that seams are 0.7 dB loud; kept, because the
    released vocoder was always heard so and a smoother fade has not been listened to.
    """

    def __init__(self, hift: Hift, noise: Tensor) -> None:
        self.hift, self.noise = hift, noise
        self.overlap = DELAY_FRAMES * hift.config.frame_samples
        self.fade = torch.hamming_window(2 * self.overlap, periodic=False, dtype=torch.float64).to(
            noise
        )

    def run(self, pushes: Sequence[Push]) -> list[Sound]:
        streams, last = [p.stream for p in pushes], pushes[0].last
        first = streams[0]
        mel = torch.cat([torch.stack([s.mel for s in streams]), _mels(pushes)], dim=-1)
        if not last and mel.shape[-1] < DELAY_FRAMES:
            raise ValueError(f"{mel.shape[-1]} mel frames begin no stream of this vocoder")
        f0 = (
            self.hift.f0_predictor(mel)
            if pushes[0].f0 is None
            else torch.stack([p.f0 for p in pushes if p.f0 is not None])
        )
        sines = self.hift.smooth_sines(f0)
        frame = self.hift.config.frame_samples
        begin = [(s.received - s.mel.shape[1]) * frame for s in streams]
        source = self.hift.source(sines, f0, _noise(self.noise, begin, sines))
        source[:, : len(first.source)] = torch.stack([s.source for s in streams])
        wave = self.hift.filter(mel, source)
        if len(first.speech):
            old = torch.stack([s.speech for s in streams]) * self.fade[self.overlap :]
            wave[:, : self.overlap] = wave[:, : self.overlap] * self.fade[: self.overlap] + old
        heard = wave if last else wave[:, : -self.overlap]
        prefix = self.overlap if first.received == 0 and not last else 0
        sounds = [
            Sound(F.pad(heard[i], (prefix, 0)), f0[i], source[i]) for i in range(len(streams))
        ]
        for i, (stream, push) in enumerate(zip(streams, pushes, strict=True)):
            stream.mel = mel[i, :, -DELAY_FRAMES:].clone()
            stream.source = source[i, -self.overlap :].clone()
            stream.speech = wave[i, -self.overlap :].clone()
            stream.received += push.mel.shape[1]
            stream.sourced = stream.emitted = stream.received
            stream.ended = last
        return sounds


def _mels(pushes: Sequence[Push]) -> Tensor:
    return torch.stack([p.mel for p in pushes])


def _noise(table: Tensor, samples: list[int], sines: Tensor) -> Tensor:
    """Noise [B, N, harmonics] for as many samples as sines, each row from its own sample on."""
    starts = torch.tensor(samples, device=table.device)
    steps = torch.arange(sines.shape[1], device=table.device)
    return table[(starts[:, None] + steps) % len(table)]


def make_noise(config: VocoderConfig) -> Tensor:
    """The noise table: uniform in [0, 1) for the causal generation, normal for the original."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    shape = (NOISE_SECONDS * config.sampling_rate, config.num_harmonics + 1)
    if config.causal:
        return torch.rand(shape, generator=generator)
    return torch.randn(shape, generator=generator)


def load_vocoder(
    state: Mapping[str, Tensor],
    *,
    yaml_path: Path | None = None,
    device: torch.device | str = "cpu",
    noise: Tensor | None = None,
    where: str = "hift.pt",
) -> Vocoder:
    """Build the vocoder that the weights are of, in float32; both weight-norm namings are read.

    Raises `ConfigError` or `CheckpointError` naming what does not fit.
    """
    folded = fold_all({name.removeprefix("generator."): value for name, value in state.items()})
    config = VocoderConfig.of_weights(folded, yaml_path)
    hift = empty(lambda: Hift(config))
    load_state(hift, folded, where=where, device=device, dtype=torch.float32)
    if config.causal:
        part = "f0_predictor."
        f0 = {n.removeprefix(part): t for n, t in folded.items() if n.startswith(part)}
        load_state(hift.f0_predictor, f0, where=where, device=device, dtype=torch.float64)
    table = make_noise(config) if noise is None else noise
    return Vocoder(hift, table.to(device=device, dtype=torch.float32))
