"""The resampler: a picture's patches to a fixed number of LLM embeddings by cross-attention.

Source: MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.config import ResamplerConfig
from engine.models.siglip import Grid, PatchBatch

LAYER_NORM_EPS = 1e-6


@lru_cache(maxsize=256)
def _axis_table(count: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sines and cosines [count, width] of positions 0 to count - 1."""
    half = width // 2
    # float32 throughout, like the original: at large positions the difference is visible.
    omega = 1.0 / 10_000 ** (torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(count, dtype=torch.float32)[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(device, dtype)


def grid_table(
    grid: Grid,
    width: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Positions [rows * columns, width] of a picture's patches: column half first, then row."""
    rows, columns = grid
    where = torch.device(device)
    across = _axis_table(columns, width // 2, where, dtype).expand(rows, -1, -1)
    down = _axis_table(rows, width // 2, where, dtype)[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], dim=2).flatten(0, 1)


class _CrossAttention(nn.Module):
    """Attention with one packed projection, named as `nn.MultiheadAttention` names it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, real: Tensor | None) -> Tensor:
        """Query [Q, C] over keys and values [B, L, C] -> [B, Q, C]; `real` [B, L]."""
        rows = (query.expand(keys.shape[0], -1, -1), keys, values)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x, weight, bias in zip(rows, weights, biases, strict=True)
        )
        visible = None if real is None else real[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        mixed: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return mixed


class Resampler(nn.Module):
    """Parameters are named as in the checkpoint under `resampler.`."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.config = config
        self.query = nn.Parameter(torch.empty(config.num_queries, width))
        self.kv_proj = nn.Linear(config.kv_dim, width, bias=False)
        self.attn = _CrossAttention(width, config.num_heads)
        self.ln_q = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.ln_kv = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.ln_post = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.proj = nn.Parameter(torch.empty(width, width))

    def forward(self, vision: Tensor, batch: PatchBatch) -> Tensor:
        """Tower output [B, L, C] of a batch -> [B, queries, width of the LLM]."""
        assert vision.shape[:2] == batch.patches.shape[:2], (
            f"vision {tuple(vision.shape)} for patches {tuple(batch.patches.shape)}"
        )
        hidden = self.ln_kv(self.kv_proj(vision))
        places = hidden.new_zeros(hidden.shape)
        for row, grid in enumerate(batch.grids):
            table = grid_table(grid, hidden.shape[2], hidden.device, hidden.dtype)
            places[row, : grid[0] * grid[1]] = table
        mixed = self.attn(self.ln_q(self.query), hidden + places, hidden, batch.real(hidden.device))
        # Multiplied from the right: the matrix is not stored transposed like a linear layer's.
        out: Tensor = self.ln_post(mixed) @ self.proj
        return out
