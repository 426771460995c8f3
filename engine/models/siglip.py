"""The vision tower: SigLIP over pictures of any size, many pictures in one padded batch.

Pictures come as `PatchBatch`. Source: SigLIP 2 (arXiv 2502.14786), NaViT (arXiv 2307.06304) and the
MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.config import VisionConfig

Grid = tuple[int, int]
"""Rows and columns of patches."""


@dataclass(frozen=True)
class PatchBatch:
    """Pictures of different sizes side by side. B pictures, L the most patches of one."""

    patches: Tensor
    """[B, L, 3 * patch * patch] normalised pixels, channel first; 0 behind a picture's end."""
    grids: tuple[Grid, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Patches of each picture."""
        return tuple(rows * columns for rows, columns in self.grids)

    def real(self, device: torch.device) -> Tensor | None:
        """[B, L] True for patches of the picture; None where nothing is padded."""
        counts, longest = self.counts, self.patches.shape[1]
        if min(counts) == longest:
            return None
        return torch.arange(longest, device=device) < torch.tensor(counts, device=device)[:, None]


def bucket_ids(grid: Grid, side: int) -> Tensor:
    """Rows of the position table [rows * columns] for the patches of a picture.

    The table has `side` x `side` buckets over any picture. The float32 steps are those of the
    original: at some sizes they put a patch on the border into the lower bucket.
    """
    borders = torch.arange(1 / side, 1.0, 1 / side)
    rows, columns = (
        torch.bucketize(
            torch.arange(0, 1 - 1e-6, (1 / torch.tensor(count)).item()), borders, right=True
        )
        for count in grid
    )
    assert (rows.shape[0], columns.shape[0]) == grid, f"{rows.shape[0]}x{columns.shape[0]}, {grid}"
    return (rows[:, None] * side + columns).flatten()


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.side = config.side
        patch = config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Embedding(config.side**2, config.hidden_size)

    def forward(self, batch: PatchBatch) -> Tensor:
        """-> [B, L, C]"""
        weight = self.patch_embedding.weight
        patches = batch.patches.to(weight.device, weight.dtype)
        assert patches.shape[2] == weight[0].numel(), (
            f"patches {tuple(patches.shape)}, the tower takes {weight[0].numel()} values each"
        )
        embedded = F.linear(patches, weight.flatten(1), self.patch_embedding.bias)
        ids = torch.zeros(patches.shape[:2], dtype=torch.long)
        for row, grid in enumerate(batch.grids):
            ids[row, : grid[0] * grid[1]] = bucket_ids(grid, self.side)
        positions: Tensor = self.position_embedding(ids.to(weight.device))
        return embedded + positions


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """[B, L, C] -> [B, L, C]; `visible` [B, 1, 1, L] True for real patches."""
        query, keys, values = (
            proj(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)
        mixed: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return mixed


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class _Layer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.self_attn = _Attention(width, config.num_heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = _Mlp(width, config.intermediate_size)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), visible)
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _Encoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))


class VisionTower(nn.Module):
    """The tower; parameters are named as in the checkpoint under `vpm.`.

    Has the layers that are run. Loading fails where the file holds more or fewer of them.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, batch: PatchBatch) -> Tensor:
        """-> [B, L, C] after the last norm; what lies behind a picture's patches is meaningless."""
        hidden = self.embeddings(batch)
        real = batch.real(hidden.device)
        visible = None if real is None else real[:, None, None]
        for layer in self.encoder.layers:
            hidden = layer(hidden, visible)
        out: Tensor = self.post_layernorm(hidden)
        return out


def pad_patches(pictures: Sequence[Tensor], grids: Sequence[Grid]) -> PatchBatch:
    """Lay patches [rows * columns, values] of several pictures into one batch."""
    assert len(pictures) == len(grids) > 0, f"{len(pictures)} pictures, {len(grids)} grids"
    for patches, grid in zip(pictures, grids, strict=True):
        assert patches.shape[0] == grid[0] * grid[1], f"{patches.shape[0]} patches, grid {grid}"
    padded = nn.utils.rnn.pad_sequence(list(pictures), batch_first=True)
    return PatchBatch(padded, tuple(grids))
