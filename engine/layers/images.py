"""Pictures before the vision tower: sizes, slices, bicubic scaling, patches.

Pictures are uint8 [height, width, 3], RGB. Scaling gives Pillow's bicubic values bit for bit,
because the model was trained on them. Source: LLaVA-UHD (arXiv 2403.11703), Pillow's resampling and
the MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from engine.models.config import PictureConfig
from engine.models.siglip import Grid, PatchBatch, pad_patches

Size = tuple[int, int]
"""Width and height in pixels."""

COEFFICIENT_BITS = 22
"""Fixed-point digits of Pillow's coefficients for 8-bit pictures."""

BICUBIC_SUPPORT = 2.0


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
    images = [resize(picture, plan.source)]
    if plan.rows:
        across, down = plan.piece
        refined = resize(picture, (across * plan.columns, down * plan.rows))
        images += [
            refined[row * down : (row + 1) * down, column * across : (column + 1) * across]
            for row in range(plan.rows)
            for column in range(plan.columns)
        ]
    return Pieces(tuple(images), plan.columns, plan.rows)


def grid_of(image: Tensor, patch: int) -> Grid:
    """Rows and columns of patches of a scaled image."""
    height, width = image.shape[:2]
    assert height % patch == width % patch == 0, f"{width} x {height} in patches of {patch}"
    return height // patch, width // patch


def patch_batch(
    images: Sequence[Tensor], config: PictureConfig, device: torch.device | str = "cpu"
) -> PatchBatch:
    """Cut scaled images into patches, row by row, and lay them into one batch on the device.

    Values are normalised there, so that a picture crosses the bus as bytes.
    """
    grids = [grid_of(image, config.patch_size) for image in images]
    raw = [_patches(image, config.patch_size) for image in images]
    batch = pad_patches(raw, grids)
    bytes_ = batch.patches.to(device)
    area = config.patch_size**2
    mean = torch.tensor(config.mean, device=device).repeat_interleave(area)
    std = torch.tensor(config.std, device=device).repeat_interleave(area)
    values = (bytes_.to(torch.float32) / 255.0 - mean) / std
    return PatchBatch(values, batch.grids)


def strip(patches: Tensor, patch: int) -> Tensor:
    """Patches [N, 3 * patch * patch] as the strip [3, patch, patch * N] of the original."""
    return patches.view(-1, 3, patch, patch).permute(1, 2, 0, 3).flatten(2)


def resize(picture: Tensor, size: Size) -> Tensor:
    """Scale a picture with Pillow's antialiased bicubic filter."""
    width, height = size
    if picture.shape[1] != width:
        picture = _resample(picture, 1, width)
    if picture.shape[0] != height:
        picture = _resample(picture, 0, height)
    return picture


def _patches(image: Tensor, patch: int) -> Tensor:
    """[height, width, 3] -> [rows * columns, 3 * patch * patch], channel first."""
    rows, columns = grid_of(image, patch)
    blocks = image.reshape(rows, patch, columns, patch, 3)
    return blocks.permute(0, 2, 4, 1, 3).reshape(rows * columns, 3 * patch * patch)


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


def _cubic(x: float) -> float:
    """Keys' kernel with a = -0.5."""
    x, a = abs(x), -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


@lru_cache(maxsize=64)
def _taps(source: int, target: int) -> tuple[Tensor, Tensor]:
    """Source positions and fixed-point weights [taps, target] of a scaling along one axis."""
    scale = source / target
    stretch = max(scale, 1.0)
    support = BICUBIC_SUPPORT * stretch
    inverse = 1.0 / stretch
    most = math.ceil(support) * 2 + 1
    places = torch.zeros(most, target, dtype=torch.long)
    weights = torch.zeros(most, target, dtype=torch.int32)
    for column in range(target):
        center = (column + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), source) - first
        taps = [_cubic((tap + first - center + 0.5) * inverse) for tap in range(count)]
        total = sum(taps)
        for tap, weight in enumerate(taps):
            fixed = weight / total * (1 << COEFFICIENT_BITS)
            places[tap, column] = first + tap
            weights[tap, column] = int(fixed - 0.5 if fixed < 0 else fixed + 0.5)
    return places, weights


def _resample(picture: Tensor, axis: int, target: int) -> Tensor:
    places, weights = (taps.to(picture.device) for taps in _taps(picture.shape[axis], target))
    shape = [1, 1, 1]
    shape[axis] = target
    total: Tensor | None = None
    for place, weight in zip(places, weights, strict=True):
        part = picture.index_select(axis, place).to(torch.int32).mul_(weight.view(shape))
        total = part if total is None else total.add_(part)
    assert total is not None
    total += 1 << (COEFFICIENT_BITS - 1)
    return (total >> COEFFICIENT_BITS).clamp_(0, 255).to(torch.uint8)
