"""The vision tower: SigLIP over pictures of any size, many pictures in one padded batch.

Source: SigLIP 2 (arXiv 2502.14786), NaViT (arXiv 2307.06304) and the
MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.blocks.linear import linear_gelu, pack_biased
from engine.gpu.layers.padded_attention import WideHeads, behind_ends
from engine.gpu.layers.varlen_attention import VarlenLayout, varlen_attention
from engine.minicpmo.models.config import VisionConfig

Grid = tuple[int, int]
"""Rows and columns of patches."""


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


def patch_index(grid: Grid, side: int, length: int) -> Tensor:
    """Where each of `length` patches of a picture lies, [3, length].

    Its row of the position table, then its row and its column of the picture. Behind the picture's
    patches: -1, 0 and 0.
    """
    rows, columns = grid
    count = rows * columns
    assert count <= length, f"{rows} x {columns} patches, at most {length}"
    index = torch.zeros(3, length, dtype=torch.long)
    index[0] = -1
    index[0, :count] = bucket_ids(grid, side)
    index[1, :count] = torch.arange(rows).repeat_interleave(columns)
    index[2, :count] = torch.arange(columns).repeat(rows)
    return index


def num_patches(index: Tensor) -> Tensor:
    """[B] int32 patches of each picture of an index [B, 3, L]."""
    return (index[:, 0] >= 0).sum(1, dtype=torch.int32)


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.side = config.side
        patch = config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Embedding(config.side**2, config.hidden_size)

    def forward(self, patches: Tensor, index: Tensor) -> Tensor:
        """[B, L, values] and their `patch_index` -> [B, L, C]"""
        weight = self.patch_embedding.weight
        assert patches.shape[2] == weight[0].numel(), (
            f"patches {tuple(patches.shape)}, the tower takes {weight[0].numel()} values each"
        )
        embedded = F.linear(patches.to(weight.dtype), weight.flatten(1), self.patch_embedding.bias)
        positions: Tensor = self.position_embedding(index[:, 0].clamp_min(0))
        return embedded + positions


@dataclass(frozen=True)
class _VisionRows:
    """Where the pictures of a batch end."""

    layout: VarlenLayout
    behind: Tensor
    """See `WideHeads`."""


class _VisionAttention(nn.Module):
    packed: tuple[Tensor, Tensor]
    """Weight and bias of query, key and value."""
    wide: WideHeads | None
    """Where there are fast kernels for rows of one length."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def finish_loading(self) -> None:
        self.packed = pack_biased(self.q_proj, self.k_proj, self.v_proj)
        weight, bias = self.out_proj.weight, self.out_proj.bias
        is_fast = weight.device.type == "cuda" and weight.element_size() == 2
        self.wide = WideHeads.of(self.heads, self.packed, weight, bias) if is_fast else None

    def forward(self, x: Tensor, rows: _VisionRows) -> Tensor:
        """[B, L, C] -> [B, L, C]"""
        if self.wide is not None:
            return self.wide(x, rows.behind)
        projected = F.linear(x, *self.packed).view(*x.shape[:2], 3, self.heads, -1)
        query, keys, values = projected.unbind(2)
        out = varlen_attention(query.flatten(0, 1), keys, values, rows.layout, causal=False)
        mixed: Tensor = self.out_proj(out.view_as(x))
        return mixed


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(linear_gelu(x, self.fc1))
        return out


class _VisionLayer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.self_attn = _VisionAttention(width, config.num_heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = _Mlp(width, config.intermediate_size)

    def forward(self, x: Tensor, rows: _VisionRows) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), rows)
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _Encoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_VisionLayer(config) for _ in range(config.num_layers))


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

    def encode(self, patches: Tensor, index: Tensor) -> Tensor:
        """Encode patches [B, L, values], normalised, with their `patch_index` [B, 3, L].

        -> [B, L, C] after the last norm; what lies behind a picture's patches is meaningless.
        Waits for nothing on the device.
        """
        count, length = patches.shape[:2]
        starts = torch.arange(count + 1, device=index.device, dtype=torch.int32) * length
        used = num_patches(index)
        hidden = self.embeddings(patches, index)
        rows = _VisionRows(
            VarlenLayout(starts, starts, used, length, length),
            behind_ends(used, length, hidden.dtype),
        )
        for layer in self.encoder.layers:
            hidden = layer(hidden, rows)
        out: Tensor = self.post_layernorm(hidden)
        return out
