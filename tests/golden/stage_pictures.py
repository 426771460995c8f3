"""Replay of scaling and slicing, of the vision tower and of the resampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.gpu.weights import empty
from engine.minicpmo.encoders.slicing import cut
from engine.minicpmo.encoders.vision import VisionEncoder
from engine.minicpmo.models.vision.resampler import VisionResampler
from engine.minicpmo.models.vision.siglip import VisionTower
from tests.golden.golden_set import GoldenSet
from tests.golden.report import TENSOR, Report
from tests.golden.stage_prompts import chat_slices, input_name
from tests.picture_batches import (
    PatchBatch,
    encode_batch,
    grid_of,
    pad_patches,
    patch_batch,
    resample_batch,
    strip,
)

PIXEL = 1.0
"""Steps of 8 bits that another bicubic filter may differ by."""


@dataclass(frozen=True)
class Scene:
    """Pictures that were encoded together."""

    prefix: str
    """Of the tensors' keys, e.g. `duplex/u00.`."""
    trace_key: str
    pictures: list[str]
    max_slices: int
    stored: list[dict[str, Any]]


def image_counts(golden: GoldenSet, inputs: dict[str, Any]) -> list[int]:
    """Into how many images each picture of a unit's `inputs` is cut, the source included."""
    slices, config = inputs["max_slice_nums"], golden.config.picture
    return [len(cut(golden.picture(name), config, slices).images) for name in inputs["images"]]


def load_vision(golden: GoldenSet) -> tuple[VisionTower, VisionResampler]:
    config, place = golden.config, golden.place
    tower = empty(lambda: VisionTower(config.vision))
    resampler = empty(lambda: VisionResampler(config.resampler))
    with golden.checkpoint() as checkpoint:
        checkpoint.load(tower, "vpm.", device=place.device, dtype=place.dtype)
        checkpoint.load(resampler, "resampler.", device=place.device, dtype=place.dtype)
    return tower, resampler


def compare(golden: GoldenSet, report: Report, batch: int) -> None:
    """Compare pictures scene by scene, then all of the set `batch` times in one padded batch."""
    tower, resampler = load_vision(golden)
    patch = golden.config.picture.patch_size
    keys: list[str] = []
    images: list[Tensor] = []
    for scene in scenes(golden):
        own, counts = _own_images(golden, scene)
        names = [f"{scene.prefix}image{place}" for place in range(len(own))]
        facts: dict[str, Any] = {
            "grids": [list(grid_of(image, patch)) for image in own],
            "names": [name.rpartition(".")[2] for name in names],
            # Stored is a call's number of images, whatever pictures they were cut from.
            "per_image": sum(counts),
        }
        for key, value in facts.items():
            items = [item for entry in scene.stored for item in entry[key]]
            stored = sum(items) if key == "per_image" else items
            report.equal(f"{scene.trace_key}.images.{key}", value, stored, "own")
        for key, image in zip(names, own, strict=True):
            stored_image = golden.host(f"{key}.resized")
            report.add_absolute(f"{key}.resized", image, stored_image, PIXEL, "own")
            report.equal(f"{key}.grid", grid_of(image, patch), golden.tensor(f"{key}.grid"), "own")
        stored_images = [golden.host(f"{key}.resized") for key in names]
        _encode(golden, report, (tower, resampler), names, patch_batch(own, _config(golden)), "own")
        stored_batch = patch_batch(stored_images, _config(golden))
        _encode(golden, report, (tower, resampler), names, stored_batch, "stored")
        _resample_stored(golden, report, resampler, names, stored_batch)
        keys += names
        images += stored_images
    if images and golden.place.is_narrow:
        _by_graphs(golden, report, tower, resampler)
    if images:
        everything = patch_batch(images * batch, _config(golden))
        _encode(golden, report, (tower, resampler), keys * batch, everything, "batch")


def scenes(golden: GoldenSet) -> Iterator[Scene]:
    """Yield the pictures of each duplex unit and of each prompt."""
    for unit in golden.trace.get("duplex", {}).get("units", []):
        if unit["inputs"]["images"]:
            name = f"duplex/u{unit['unit']:02d}."
            key = f"trace/duplex.u{unit['unit']:02d}"
            pictures, slices = unit["inputs"]["images"], unit["inputs"]["max_slice_nums"]
            yield Scene(name, key, pictures, slices, unit["images"])
    for name, chat in golden.trace.get("chat", {}).items():
        content = [part for message in chat["messages"] for part in message["content"]]
        pictures = _pictures(golden, content)
        if pictures:
            slices = chat_slices(golden, chat)
            key = f"trace/chat.{name}"
            yield Scene(f"chat/{name}.", key, pictures, slices, chat["images"])
    for name, part in golden.trace.get("half_duplex", {}).items():
        pictures = _pictures(golden, part.get("content", []))
        if pictures:
            slices = int(part.get("max_slice_nums") or 1)
            key = f"trace/half_duplex.{name}"
            yield Scene(f"half_duplex/{name}.", key, pictures, slices, part["images"])


def _config(golden: GoldenSet) -> Any:
    return golden.config.picture


def _pictures(golden: GoldenSet, content: list[str]) -> list[str]:
    names = [name for name in map(input_name, content) if name is not None]
    return [name for name in names if golden.host(f"inputs/{name}").ndim == 3]


def _own_images(golden: GoldenSet, scene: Scene) -> tuple[list[Tensor], list[int]]:
    cuts = [
        cut(golden.picture(name), golden.config.picture, scene.max_slices).images
        for name in scene.pictures
    ]
    return [image for images in cuts for image in images], [len(images) for images in cuts]


def _encode(
    golden: GoldenSet,
    report: Report,
    models: tuple[VisionTower, VisionResampler],
    keys: list[str],
    batch: PatchBatch,
    kind: str,
) -> None:
    tower, resampler = models
    vision = encode_batch(tower, batch)
    embedded = resample_batch(resampler, vision, batch)
    for row, (key, count) in enumerate(zip(keys, batch.counts, strict=True)):
        report.add(f"{key}.vit", vision[row, :count], golden.tensor(f"{key}.vit"), TENSOR, kind)
        report.add(f"{key}.embed", embedded[row], golden.tensor(f"{key}.embed"), TENSOR, kind)
        if f"{key}.pixel_values" in golden:
            pixels = strip(batch.patches[row, :count], golden.config.picture.patch_size)
            stored = golden.tensor(f"{key}.pixel_values")
            report.add(f"{key}.pixel_values", pixels, stored, TENSOR, kind)


def _resample_stored(
    golden: GoldenSet,
    report: Report,
    resampler: VisionResampler,
    keys: list[str],
    batch: PatchBatch,
) -> None:
    stored = pad_patches([golden.tensor(f"{key}.vit") for key in keys], batch.grids)
    embedded = resample_batch(resampler, stored.patches.to(golden.place.dtype), batch)
    for key, ours in zip(keys, embedded, strict=True):
        report.add(f"{key}.embed", ours, golden.tensor(f"{key}.embed"), TENSOR, "stored vit")


def _by_graphs(
    golden: GoldenSet, report: Report, tower: VisionTower, resampler: VisionResampler
) -> None:
    """Our own pictures as the engine looks at them: scaled on the device, encoded by graphs."""
    counts = [sum(sum(entry["per_image"]) for entry in scene.stored) for scene in scenes(golden)]
    pool = golden.place.pool()
    vision = VisionEncoder(tower, resampler, _config(golden), pool, max(counts))
    vision.warm_up(lambda text: None)
    for scene in scenes(golden):
        given = [(golden.picture(name), scene.max_slices) for name in scene.pictures]
        embeds = [image for seen in vision.look(given) for image in seen.images]
        for place, ours in enumerate(embeds):
            key = f"{scene.prefix}image{place}.embed"
            report.add(key, ours, golden.tensor(key), TENSOR, "graphs")
