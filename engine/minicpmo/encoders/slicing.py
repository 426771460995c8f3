"""Pictures before the vision tower: sizes, slices, patches.

Pictures are uint8 [height, width, 3], RGB. Source: LLaVA-UHD (arXiv 2403.11703) and the MiniCPM-o
4.5 inference code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.dsp.bicubic import Size, scale
from engine.minicpmo.models.config import PictureConfig


@dataclass(frozen=True)
class SlicePlan:
    """How one picture is cut: a source image and, where it is large, a grid of slices."""

    source: Size
    columns: int
    rows: int
    """0 by 0: no slices."""
    piece: Size
    """Size of one slice."""

    @property
    def num_images(self) -> int:
        return 1 + self.columns * self.rows


@dataclass(frozen=True)
class Pieces:
    """The images that one picture is encoded as: the source, then its slices row by row."""

    images: tuple[Tensor, ...]
    columns: int
    rows: int


def plan_slices(size: Size, config: PictureConfig, max_slices: int) -> SlicePlan:
    """Decide how a picture of this size is scaled and cut into at most `max_slices` slices."""
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height}")
    grid = _slice_grid(size, config, max_slices)
    if grid is None:
        return SlicePlan(_best_size(width, height, config, upscale=True), 0, 0, (0, 0))
    columns, rows = grid
    piece = _best_size(
        _to_multiple(width, columns) / columns, _to_multiple(height, rows) / rows, config, True
    )
    return SlicePlan(_best_size(width, height, config, upscale=False), columns, rows, piece)


def cut(picture: Tensor, config: PictureConfig, max_slices: int) -> Pieces:
    """Scale and cut a picture into the images that are encoded."""
    height, width, channels = picture.shape
    assert channels == 3 and picture.dtype == torch.uint8, f"{picture.dtype} {tuple(picture.shape)}"
    plan = plan_slices((width, height), config, max_slices)
    planes = cut_planes(picture[None], plan)
    images = tuple(image[0].permute(1, 2, 0).to(torch.uint8) for image in planes)
    return Pieces(images, plan.columns, plan.rows)


def cut_planes(pictures: Tensor, plan: SlicePlan) -> list[Tensor]:
    """Scale and cut pictures of one size [G, height, width, 3] into the images of a plan.

    Each image is [G, 3, height, width] of whole numbers in float64.
    """
    images = [scale(pictures, plan.source)]
    if plan.rows:
        across, down = plan.piece
        refined = scale(pictures, (across * plan.columns, down * plan.rows))
        images += [
            strip.narrow(3, column * across, across)
            for strip in torch.split(refined, down, 2)
            for column in range(plan.columns)
        ]
    return images


def patches_of(planes: Tensor, patch: int) -> Tensor:
    """[G, 3, height, width] -> [G, rows * columns, 3 * patch * patch] uint8, channel first."""
    group, channels, height, width = planes.shape
    rows, columns = height // patch, width // patch
    blocks = planes.view(group, channels, rows, patch, columns, patch)
    laid = blocks.permute(0, 2, 4, 1, 3, 5)
    whole = laid.to(torch.uint8, memory_format=torch.contiguous_format)
    return whole.view(group, rows * columns, -1)


def normalise(patches: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bytes [..., 3 * patch * patch] to float32, with `pixel_statistics`."""
    return (patches.to(torch.float32) / 255.0 - mean) / std


def pixel_statistics(config: PictureConfig, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each value of a patch."""
    area = config.patch_size**2
    mean = torch.tensor(config.mean, device=device).repeat_interleave(area)
    std = torch.tensor(config.std, device=device).repeat_interleave(area)
    return mean, std


def resize(picture: Tensor, size: Size) -> Tensor:
    """Scale a picture with Pillow's antialiased bicubic filter."""
    return scale(picture[None], size)[0].permute(1, 2, 0).to(torch.uint8)


def _to_multiple(length: float, unit: int) -> int:
    return max(round(length / unit) * unit, unit)


def _best_size(width: float, height: float, config: PictureConfig, upscale: bool) -> Size:
    side = config.scale_resolution
    if width * height > side * side or upscale:
        ratio = width / height
        height = int(side / math.sqrt(ratio))
        width = int(height * ratio)
    return _to_multiple(width, config.patch_size), _to_multiple(height, config.patch_size)


def _slice_grid(size: Size, config: PictureConfig, max_slices: int) -> Size | None:
    """Columns and rows whose shape is nearest to the picture's, None for no slices."""
    width, height = size
    wanted = min(math.ceil(width * height / config.scale_resolution**2), max_slices)
    if wanted <= 1:
        return None
    best, least = (1, 1), math.inf
    for count in (wanted - 1, wanted, wanted + 1):
        if count == 1 or count > max_slices:
            continue
        for columns in range(1, count + 1):
            if count % columns:
                continue
            rows = count // columns
            error = abs(math.log(width / height) - math.log(columns / rows))
            if error < least:
                best, least = (columns, rows), error
    return best
