"""The resampler: a picture's patches to a fixed number of LLM embeddings by cross-attention.

Source: MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.layers.varlen_attention import VarlenLayout, varlen_attention
from engine.minicpmo.models.config import ResamplerConfig
from engine.minicpmo.models.vision.siglip import num_patches

LAYER_NORM_EPS = 1e-6


SIDE = 2_048
"""Rows or columns of patches for which positions are at hand."""


def axis_table(count: int, width: int) -> Tensor:
    """Sines and cosines [count, width] of positions 0 to count - 1."""
    half = width // 2
    # float32 throughout, like the original: at large positions the difference is visible.
    omega = 1.0 / 10_000 ** (torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(count, dtype=torch.float32)[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _CrossAttention(nn.Module):
    """Attention with one packed projection, named as `nn.MultiheadAttention` names it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, used: Tensor) -> Tensor:
        """Query [Q, C] over the first `used` [B] of keys and values [B, L, C] -> [B, Q, C]."""
        count, length = keys.shape[:2]
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).view(*x.shape[:-1], self.heads, -1)
            for x, weight, bias in zip((query, keys, values), weights, biases, strict=True)
        )
        num_queries = query.shape[0]
        starts = torch.arange(count + 1, device=keys.device, dtype=torch.int32)
        layout = VarlenLayout(starts * num_queries, starts * length, used, num_queries, length)
        out = varlen_attention(q.repeat(count, 1, 1), k, v, layout, causal=False)
        mixed: Tensor = self.out_proj(out.view(count, num_queries, -1))
        return mixed


class VisionResampler(nn.Module):
    """Parameters are named as in the checkpoint under `resampler.`."""

    axis: Tensor
    """Positions along one axis [SIDE, half the width]."""

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

    def finish_loading(self) -> None:
        self.axis = self._axis(SIDE)

    def mix(self, vision: Tensor, index: Tensor) -> Tensor:
        """Tower output [B, L, C] with the patches' `patch_index` [B, 3, L] -> [B, queries, width].

        Waits for nothing on the device.
        """
        hidden = self.ln_kv(self.kv_proj(vision))
        length = vision.shape[1]
        axis = self.axis if length <= SIDE else self._axis(length)
        places = axis[index[:, 1:].flip(1)]  # [B, 2, L, half]: column first
        keys = hidden + places.transpose(1, 2).flatten(2)
        mixed = self.attn(self.ln_q(self.query), keys, hidden, num_patches(index))
        # Multiplied from the right: the matrix is not stored transposed like a linear layer's.
        out: Tensor = self.ln_post(mixed) @ self.proj
        return out

    def _axis(self, count: int) -> Tensor:
        weight = self.proj
        return axis_table(count, self.config.embed_dim // 2).to(weight.device, weight.dtype)
