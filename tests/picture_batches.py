"""Pictures of different sizes as one batch, for comparisons with what the engine's graphs see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.minicpmo.encoders.slicing import normalise, pixel_statistics
from engine.minicpmo.models.config import PictureConfig
from engine.minicpmo.models.vision.resampler import VisionResampler
from engine.minicpmo.models.vision.siglip import Grid, VisionTower, patch_index


@dataclass(frozen=True)
class PatchBatch:
    """Pictures side by side. B pictures, L the most patches of one."""

    patches: Tensor
    """[B, L, 3 * patch * patch] normalised pixels, channel first; 0 behind a picture's end."""
    grids: tuple[Grid, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Patches of each picture."""
        return tuple(rows * columns for rows, columns in self.grids)

    def index(self, side: int) -> Tensor:
        """`patch_index` of each picture, [B, 3, L]."""
        length = self.patches.shape[1]
        each = [patch_index(grid, side, length) for grid in self.grids]
        return torch.stack(each).to(self.patches.device)


def pad_patches(pictures: Sequence[Tensor], grids: Sequence[Grid]) -> PatchBatch:
    """Lay patches [rows * columns, values] of several pictures into one batch."""
    assert len(pictures) == len(grids) > 0, f"{len(pictures)} pictures, {len(grids)} grids"
    for patches, grid in zip(pictures, grids, strict=True):
        assert patches.shape[0] == grid[0] * grid[1], f"{patches.shape[0]} patches, grid {grid}"
    padded = nn.utils.rnn.pad_sequence(list(pictures), batch_first=True)
    return PatchBatch(padded, tuple(grids))


def grid_of(image: Tensor, patch: int) -> Grid:
    """Rows and columns of patches of a scaled image."""
    height, width = image.shape[:2]
    assert height % patch == width % patch == 0, f"{width} x {height} in patches of {patch}"
    return height // patch, width // patch


def patch_batch(
    images: Sequence[Tensor], config: PictureConfig, device: torch.device | str = "cpu"
) -> PatchBatch:
    """Cut scaled images into patches, row by row, and lay them into one batch on the device."""
    grids = [grid_of(image, config.patch_size) for image in images]
    batch = pad_patches([_patches(image, config.patch_size) for image in images], grids)
    values = normalise(batch.patches.to(device), *pixel_statistics(config, device))
    return PatchBatch(values, batch.grids)


def _patches(image: Tensor, patch: int) -> Tensor:
    """[height, width, 3] -> [rows * columns, 3 * patch * patch], channel first."""
    rows, columns = grid_of(image, patch)
    blocks = image.reshape(rows, patch, columns, patch, 3)
    return blocks.permute(0, 2, 4, 1, 3).reshape(rows * columns, 3 * patch * patch)


def strip(patches: Tensor, patch: int) -> Tensor:
    """Patches [N, 3 * patch * patch] as the strip [3, patch, patch * N] of the original."""
    return patches.view(-1, 3, patch, patch).permute(1, 2, 0, 3).flatten(2)


def encode_batch(tower: VisionTower, batch: PatchBatch) -> Tensor:
    """-> [B, L, C] after the last norm; what lies behind a picture's patches is meaningless."""
    weight = tower.post_layernorm.weight
    index = batch.index(tower.config.side).to(weight.device)
    return tower.encode(batch.patches.to(weight.device), index)


def resample_batch(resampler: VisionResampler, vision: Tensor, batch: PatchBatch) -> Tensor:
    """Tower output [B, L, C] of a batch -> [B, queries, width of the LLM]."""
    assert vision.shape[:2] == batch.patches.shape[:2], (
        f"vision {tuple(vision.shape)} for patches {tuple(batch.patches.shape)}"
    )
    # The position table belongs to the tower.
    return resampler.mix(vision, batch.index(1).to(vision.device))
