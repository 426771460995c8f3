"""The encoders by themselves, with and without CUDA graphs.

    python -m tests.bench.senses --size full --device cuda --rows 1,8,32 --json

Weights are random. For each number of sessions: a unit of sound for each, and a camera picture for
each. Prints one JSON object; `relative_error` compares runs by graph with eager ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.kv.cache import NativeKV
from engine.minicpmo.encoders.slicing import cut, normalise, plan_slices
from engine.minicpmo.encoders.vision import IMAGES_AT_ONCE, VisionEncoder
from engine.minicpmo.models.config import OmniConfig
from tests.engine.minicpmo.encoder_rig import (
    Sizes,
    chunk_of,
    make_audio_encoder,
    make_vision_encoder,
    sound,
    tiny_sizes,
)
from tests.picture_batches import patch_batch
from tests.tiny_checkpoint import full_size_config

CAMERA = (640, 480)
UNITS = 28
PICTURE_ROUNDS = 6
SKIPPED = 2
"""Rounds whose times do not count."""


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def full_sizes() -> Sizes:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "config.json").write_text(json.dumps(full_size_config()))
        config = OmniConfig.load(name)
    return Sizes(
        config.audio, config.vision, config.resampler, config.picture, config.llm.hidden_size
    )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device, rounds: int, function: Callable[[int], object]) -> dict[str, float]:
    """Medians in ms: until the function returned, and until the device was done."""
    host, wall = [], []
    for index in range(rounds):
        synchronize(device)
        started = time.perf_counter()
        function(index)
        host.append((time.perf_counter() - started) * 1000)
        synchronize(device)
        wall.append((time.perf_counter() - started) * 1000)
    kept = slice(min(SKIPPED, rounds - 1), None)
    return {
        "wall_ms": round(statistics.median(wall[kept]), 3),
        "host_ms": round(statistics.median(host[kept]), 3),
    }


def relative(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Root mean square of the difference over that of the values."""
    left, right = torch.stack(ours).double(), torch.stack(theirs).double()
    return float((left - right).square().mean().sqrt() / right.square().mean().sqrt())


class Bench:
    """One set of weights, twice: with graphs and without."""

    def __init__(self, sizes: Sizes, device: torch.device, most: int) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.device = device
        self.most = most
        self.graphs = GraphPool(device)
        self.audio_encoder = make_audio_encoder(sizes, most, self.graphs, dtype)
        self.vision_encoder = make_vision_encoder(sizes, self.graphs, dtype)
        eager = GraphPool(device, enabled=False)
        audio, vision = self.audio_encoder, self.vision_encoder
        mels = type(audio.mels)(audio.mels.mel, most)
        cache = NativeKV(audio.encoder.cache_spec(), most)
        self.eager_ears = type(audio)(mels, audio.encoder, audio.projector, cache, eager)
        self.eager_eyes = VisionEncoder(vision.vision, vision.resampler, vision.config, eager)

    def warm_up(self) -> float:
        """Seconds that making the graphs takes."""
        started = time.perf_counter()
        self.audio_encoder.warm_up(self.most, progress)
        self.vision_encoder.warm_up(progress)
        synchronize(self.device)
        return round(time.perf_counter() - started, 2)

    # ------------------------------------------------------------------ audio

    def hear(self, rows: int) -> dict[str, Any]:
        sounds = [sound(slot, UNITS) for slot in range(rows)]
        heard: dict[str, list[Tensor]] = {}
        told: dict[str, Any] = {}
        for name, audio in (("graph", self.audio_encoder), ("eager", self.eager_ears)):
            audio.mels.reset(range(self.most))
            audio.cache.reset(range(self.most))
            out = heard[name] = []

            def unit(index: int, audio: Any = audio, out: list[Tensor] = out) -> None:
                found = audio.hear({s: chunk_of(sounds[s], index) for s in range(rows)})
                out.append(torch.stack(list(found.values())))

            told[name] = clock(self.device, UNITS, unit)
        told["relative_error"] = relative(heard["graph"], heard["eager"])
        return told

    # ------------------------------------------------------------------ vision

    def look(self, rows: int) -> dict[str, Any]:
        width, height = CAMERA
        generator = torch.Generator().manual_seed(rows)
        shape = (height, width, 3)
        rgb = [
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            for _ in range(rows)
        ]
        pictures = [(picture, 1) for picture in rgb]
        found: dict[str, list[Tensor]] = {}
        told: dict[str, Any] = {}
        for name, vision in (("graph", self.vision_encoder), ("eager", self.eager_eyes)):

            def once(_: int, vision: VisionEncoder = vision, name: str = name) -> None:
                found[name] = [seen.images[0] for seen in vision.look(pictures)]

            told[name] = clock(self.device, PICTURE_ROUNDS, once)
        told["relative_error"] = relative(found["graph"], found["eager"])
        told |= self._parts(rgb)
        told["scaled_bit_for_bit"] = self._equals_cpu(rgb[0])
        return told

    @torch.inference_mode()
    def _parts(self, rgb: list[Tensor]) -> dict[str, Any]:
        """Uploading and scaling all pictures; each network as a graph, for at most 16."""
        vision, config = self.vision_encoder, self.vision_encoder.config
        plans = [plan_slices((x.shape[1], x.shape[0]), config, 1) for x in rgb]
        told: dict[str, Any] = {
            "scale": clock(self.device, PICTURE_ROUNDS, lambda _: vision.cut(rgb, plans)),
        }
        grid = vision.cut(rgb[:1], plans[:1])[0][0].grid
        batch = patch_batch([cut(x, config, 1).images[0] for x in rgb[:IMAGES_AT_ONCE]], config)
        length = next(n for n in vision.lengths if n >= grid[0] * grid[1])
        patches = torch.zeros(len(batch.grids), length, batch.patches.shape[2])
        patches[:, : batch.patches.shape[1]] = batch.patches
        batch = type(batch)(patches.to(self.device), batch.grids)
        index = batch.index(vision.vision.config.side)
        features = vision.vision.encode(batch.patches, index).clone()
        told["vit"] = self._network(vision.vision.encode, batch.patches, index)
        told["resampler"] = self._network(vision.resampler.mix, features, index)
        return told | {"networks_pictures": len(batch.grids)}

    def _network(
        self, function: Callable[[Tensor, Tensor], Tensor], values: Tensor, index: Tensor
    ) -> dict[str, float]:
        pool = GraphPool(self.device)
        with pool.capturing():
            pool.run(0, function, values, index)
        return clock(self.device, PICTURE_ROUNDS, lambda _: pool.run(0, function, values, index))

    @torch.inference_mode()
    def _equals_cpu(self, rgb: Tensor) -> bool:
        """Slices too, so that scaling up is compared as well."""
        config = self.vision_encoder.config
        sizes = ((rgb, 1), (rgb, 9), (rgb[:101, :333].contiguous(), 9))
        for picture, most in sizes:
            plan = plan_slices((picture.shape[1], picture.shape[0]), config, most)
            (ours,) = self.vision_encoder.cut([picture], [plan])
            batch = patch_batch(list(cut(picture, config, most).images), config)
            for row, image in enumerate(ours):
                mine = normalise(image.patches.cpu(), torch.tensor(0.5), torch.tensor(0.5))
                if not torch.equal(mine, batch.patches[row, : len(mine)].float()):
                    return False
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench.senses")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", default="1,8,32", help="numbers of sessions")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = [int(count) for count in options.rows.split(",")]
    bench = Bench(full_sizes() if options.size == "full" else tiny_sizes(), device, max(rows))
    result: dict[str, Any] = {"size": options.size, "device": options.device}
    if device.type == "cuda":
        result["device"] = torch.cuda.get_device_name(device)
    result["warm_up_s"] = bench.warm_up()
    result["graphs"] = len(bench.graphs)
    for count in rows:
        progress(f"{count} rows")
        result[f"hear_{count}"] = bench.hear(count)
        result[f"look_{count}"] = bench.look(count)
    result["graph_misses"] = bench.graphs.misses
    if device.type == "cuda":
        result["peak_device_gib"] = round(torch.cuda.max_memory_allocated(device) / 1024**3, 2)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
