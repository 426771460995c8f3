"""AudioEncoder and vision: their engine path beside float32, and a session by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.dsp.streaming_logmel import StreamingLogMel
from engine.gpu.graphs import GraphPool
from engine.gpu.kv.cache import NativeKV
from engine.minicpmo.checkpoint import OmniModel
from engine.minicpmo.encoders.audio import AudioEncoder
from engine.minicpmo.encoders.vision import VisionEncoder
from tests.bench.errors import error
from tests.bench.widening import widen
from tests.engine.minicpmo.encoder_rig import chunk_of, sound
from tests.exactness import exact

ROWS = 8
UNITS = 8
"""The floor of the log-mel becomes a dynamic one after five."""
PICTURES = ((480, 640, 1), (480, 640, 1), (720, 1280, 1), (900, 700, 9))
"""Height, width and most slices."""


def hear(model: OmniModel, rows: int, pool: GraphPool) -> list[Tensor]:
    """The embeddings [rows, 10, C] of each unit."""
    cache = NativeKV(model.whisper.cache_spec(), rows)
    audio = AudioEncoder(
        StreamingLogMel(model.mel, rows), model.whisper, model.projector, cache, pool
    )
    audio.warm_up(rows, lambda text: None)
    sounds = [sound(row, UNITS) for row in range(rows)]
    found = []
    for unit in range(UNITS):
        embeds = audio.hear({row: chunk_of(sounds[row], unit) for row in range(rows)})
        found.append(torch.stack([embeds[row] for row in range(rows)]).float().cpu())
    return found


def look(model: OmniModel, pictures: list[tuple[Tensor, int]], pool: GraphPool) -> list[Tensor]:
    """The embeddings [T, C] of each picture and of its slices."""
    vision = VisionEncoder(model.vision, model.resampler, model.config.picture, pool)
    vision.warm_up(lambda text: None)
    seen = vision.look(pictures)
    return [image.float().cpu() for picture in seen for image in picture.images]


def pictures() -> list[tuple[Tensor, int]]:
    """Smooth colours with some noise."""
    drawn = []
    for seed, (height, width, slices) in enumerate(PICTURES):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, 6, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(
            coarse, size=(height, width), mode="bilinear", align_corners=False
        )
        noisy = smooth[0] + 0.05 * torch.randn(3, height, width, generator=generator)
        drawn.append(((noisy.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0), slices))
    return [(picture.contiguous(), slices) for picture, slices in drawn]


def measure(model: OmniModel) -> dict[str, Any]:
    """Leaves audio and vision in float32."""
    device, shown = model.device, pictures()
    pool = GraphPool(device)
    heard, seen = hear(model, ROWS, pool), look(model, shown, pool)
    alone = hear(model, 1, GraphPool(device))
    single = look(model, shown[:1], GraphPool(device))
    misses = pool.misses
    del pool
    for network in (model.whisper, model.projector, model.vision, model.resampler):
        widen(network)
    with exact():
        exact_heard = hear(model, ROWS, GraphPool(device, enabled=False))
        exact_seen = look(model, shown, GraphPool(device, enabled=False))
    return {
        "graph_misses": misses,
        "sound against float32": error(heard, exact_heard),
        "sound against float32, by unit": [
            error([ours], [theirs])["relative_rms"]
            for ours, theirs in zip(heard, exact_heard, strict=True)
        ],
        f"sound of a session alone against {ROWS}": error(alone, [unit[:1] for unit in heard]),
        "pictures": len(seen),
        "pictures against float32": error(seen, exact_seen),
        "a picture alone against all": error(single, seen[:1]),
    }
