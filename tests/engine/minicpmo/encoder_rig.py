"""Both encoders with random weights, without the rest of the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.dsp.logmel import CHUNK, LogMel, first_chunk
from engine.dsp.streaming_logmel import StreamingLogMel
from engine.gpu.graphs import GraphPool
from engine.gpu.kv.cache import NativeKV
from engine.gpu.weights import empty
from engine.minicpmo.encoders.audio import AudioEncoder
from engine.minicpmo.encoders.vision import VisionEncoder
from engine.minicpmo.models.audio.whisper import AudioProjector, WhisperEncoder
from engine.minicpmo.models.config import AudioConfig, PictureConfig, ResamplerConfig, VisionConfig
from engine.minicpmo.models.vision.resampler import VisionResampler
from engine.minicpmo.models.vision.siglip import VisionTower
from tests.random_weights import random_weights

FIRST_CHUNK = first_chunk(CHUNK)


@dataclass(frozen=True)
class Sizes:
    audio: AudioConfig
    vision: VisionConfig
    resampler: ResamplerConfig
    picture: PictureConfig
    llm_width: int


def tiny_sizes(patch: int = 14) -> Sizes:
    plain = (0.5, 0.5, 0.5)
    return Sizes(
        AudioConfig(32, 2, 4, 64, 80, 1500, 5, 1.0),
        VisionConfig(48, 96, 2, 3, patch, 70, 1e-6),
        ResamplerConfig(num_queries=8, embed_dim=64, num_heads=2, kv_dim=48),
        PictureConfig(patch, 112, 9, plain, plain),
        64,
    )


def make_audio_encoder(
    sizes: Sizes,
    slots: int,
    graphs: GraphPool,
    dtype: torch.dtype = torch.float32,
) -> AudioEncoder:
    device = graphs.device
    encoder = empty(lambda: WhisperEncoder(sizes.audio))
    projector = empty(lambda: AudioProjector(sizes.audio, sizes.llm_width))
    for module, seed in ((encoder, 1), (projector, 2)):
        random_weights(module, seed, device=device, dtype=dtype)
    mels = StreamingLogMel(LogMel(sizes.audio.num_mel_bins, device), slots)
    return AudioEncoder(mels, encoder, projector, NativeKV(encoder.cache_spec(), slots), graphs)


def make_vision_encoder(
    sizes: Sizes, graphs: GraphPool, dtype: torch.dtype = torch.float32
) -> VisionEncoder:
    vision = empty(lambda: VisionTower(sizes.vision))
    resampler = empty(lambda: VisionResampler(sizes.resampler))
    for module, seed in ((vision, 3), (resampler, 4)):
        random_weights(module, seed, device=graphs.device, dtype=dtype)
    return VisionEncoder(vision, resampler, sizes.picture, graphs)


def chunk_of(samples: Tensor, unit: int) -> Tensor:
    end = FIRST_CHUNK + unit * CHUNK
    return samples[:end] if unit == 0 else samples[end - CHUNK : end]


def sound(seed: int, units: int) -> Tensor:
    """Noise whose loudness changes, long enough for so many units."""
    count = FIRST_CHUNK + units * CHUNK
    generator = torch.Generator().manual_seed(seed)
    loud = torch.rand(count // 4000 + 1, generator=generator).repeat_interleave(4000)[:count]
    return torch.randn(count, generator=generator) * loud.square() * 0.3
