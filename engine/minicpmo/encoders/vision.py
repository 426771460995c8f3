"""What sessions see: pictures to embeddings, many pictures at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.staging import Staging
from engine.minicpmo.encoders.slicing import (
    SlicePlan,
    cut_planes,
    normalise,
    patches_of,
    pixel_statistics,
    plan_slices,
)
from engine.minicpmo.models.config import PictureConfig
from engine.minicpmo.models.vision.resampler import VisionResampler
from engine.minicpmo.models.vision.siglip import Grid, VisionTower, patch_index

BATCHES = (16, 8, 4, 2, 1)
"""Images of one forward. Others are made up of these: two small ones cost less than padding."""

IMAGES_AT_ONCE = max(BATCHES)

LENGTH_STEP = 64
"""Patches of a forward's rows are padded to a multiple."""

STAGED_BYTES = 64 * 1024 * 1024
GROUP_PIXELS = 1 << 23
"""Pictures of one size that are scaled together have at most so many pixels."""


PictureInput = tuple[Tensor, int]
"""[height, width, 3] uint8 on the host, and the most slices that it is cut into."""


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as the language model gets it."""

    images: tuple[Tensor, ...]
    """[T, C] each: the whole picture first, then its slices."""
    columns: int
    rows: int


@dataclass(frozen=True)
class PatchImage:
    """One of the images that a picture is encoded as, on the device."""

    patches: Tensor
    """[rows * columns, 3 * patch * patch] uint8"""
    grid: Grid


@lru_cache(maxsize=128)
def _index(grid: Grid, side: int, length: int, device: torch.device) -> Tensor:
    return patch_index(grid, side, length).to(device)


class VisionEncoder:
    """Seeing; no session's state."""

    def __init__(
        self,
        vision: VisionTower,
        resampler: VisionResampler,
        config: PictureConfig,
        graphs: GraphPool,
        most: int = IMAGES_AT_ONCE,
    ) -> None:
        """`most`: images that are encoded at once; memory grows with them."""
        self._sizes = [size for size in BATCHES if size <= most]
        self.vision = vision
        self.resampler = resampler
        self.config = config
        self.graphs = graphs
        self.device = resampler.proj.device
        self._statistics = pixel_statistics(config, self.device)
        self._staging = Staging(self.device, STAGED_BYTES)
        area = (config.scale_resolution // config.patch_size) ** 2
        usual = -(-area // LENGTH_STEP) * LENGTH_STEP
        # Sides are rounded to whole patches, so that an image may have a few more than the square.
        self.lengths = (usual, usual + LENGTH_STEP)
        """Padded patches of all but extremely wide or high images."""

    @torch.inference_mode()
    def look(self, pictures: Sequence[PictureInput]) -> list[EncodedPicture]:
        """Scale, cut and encode pictures as one batch; the results are the caller's own."""
        plans = [self.plan(picture, most) for picture, most in pictures]
        cut = self.cut([picture for picture, _ in pictures], plans)
        embeds = iter(self.encode([image for images in cut for image in images]))
        return [
            EncodedPicture(tuple(next(embeds) for _ in images), plan.columns, plan.rows)
            for plan, images in zip(plans, cut, strict=True)
        ]

    def plan(self, picture: Tensor, most: int) -> SlicePlan:
        """Into which images a picture [height, width, 3] will be cut, with `most` slices."""
        return plan_slices((picture.shape[1], picture.shape[0]), self.config, most)

    def cut(self, pictures: Sequence[Tensor], plans: Sequence[SlicePlan]) -> list[list[PatchImage]]:
        """Upload, scale and cut pictures; equal ones in one go."""
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, (picture, plan) in enumerate(zip(pictures, plans, strict=True)):
            alike.setdefault((tuple(picture.shape), plan), []).append(place)
        found: list[list[PatchImage]] = [[] for _ in pictures]
        for places in alike.values():
            height, width = pictures[places[0]].shape[:2]
            most = max(1, GROUP_PIXELS // (height * width))
            for start in range(0, len(places), most):
                group = places[start : start + most]
                uploaded = self._upload([pictures[place] for place in group])
                for planes in cut_planes(uploaded, plans[group[0]]):
                    grid = tuple(side // self.config.patch_size for side in planes.shape[2:])
                    patches = patches_of(planes, self.config.patch_size)
                    for place, own in zip(group, patches.unbind(), strict=True):
                        found[place].append(PatchImage(own, (grid[0], grid[1])))
        return found

    def encode(self, images: Sequence[PatchImage]) -> list[Tensor]:
        """Embeddings [T, C] of each image."""
        alike: dict[int, list[int]] = {}
        for place, image in enumerate(images):
            alike.setdefault(self._length(image), []).append(place)
        embeds: list[Tensor | None] = [None] * len(images)
        for length, places in alike.items():
            done = 0
            while done < len(places):
                size = next(size for size in self._sizes if size <= len(places) - done)
                group = places[done : done + size]
                out = self._run([images[place] for place in group], length)
                for place, own in zip(group, out.unbind(), strict=True):
                    embeds[place] = own
                done += size
        return [own for own in embeds if own is not None]

    @torch.inference_mode()
    def warm_up(self, show: Callable[[str], None]) -> None:
        """Make the graphs of all sizes."""
        if not self.graphs.has_to_warm_up:
            return
        sizes = self._sizes
        values = 3 * self.config.patch_size**2
        with self.graphs.capturing():
            for length in reversed(self.lengths) if self.graphs.enabled else self.lengths[:1]:
                for size in sizes if self.graphs.enabled else sizes[-1:]:
                    show(f"vision encoder, {size} images of {length} patches")
                    patches = torch.zeros(size, length, values, dtype=torch.uint8)
                    nothing = torch.zeros(size, 3, length, dtype=torch.long)
                    nothing[:, 0] = -1
                    self.graphs.run(("look", size, length), self._embed, patches, nothing)

    def _length(self, image: PatchImage) -> int:
        count = image.patches.shape[0]
        for length in self.lengths:
            if count <= length:
                return length
        return -(-count // LENGTH_STEP) * LENGTH_STEP

    def _upload(self, pictures: Sequence[Tensor]) -> Tensor:
        """[G, height, width, 3] of pictures of one size."""
        shape = (len(pictures), *pictures[0].shape)
        if self.device.type == "cpu":
            return torch.stack(list(pictures))
        uploaded = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for own, picture in zip(uploaded, pictures, strict=True):
            self._staging.copy(own, picture)
        return uploaded

    def _run(self, images: Sequence[PatchImage], length: int) -> Tensor:
        shape = (len(images), length, images[0].patches.shape[1])
        patches = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        for row, image in zip(patches, images, strict=True):
            row[: image.patches.shape[0]] = image.patches
        side = self.vision.config.side
        index = torch.stack([_index(image.grid, side, length, self.device) for image in images])
        key = ("look", len(images), length)
        return self.graphs.run(key, self._embed, patches, index).clone()

    def _embed(self, patches: Tensor, index: Tensor) -> Tensor:
        """[B, L, values] uint8 and their `patch_index` -> [B, T, C]"""
        vision = self.vision.encode(normalise(patches, *self._statistics), index)
        return self.resampler.mix(vision, index)
