"""Causal self-attention with grouped keys over a `SlotKV`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kvcache import KvPlan, SlotKV
from engine.layers.norms import RMSNorm
from engine.layers.rope import rotate


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of one attention layer."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool = False
    qk_norm_eps: float | None = None
    """Per-head RMSNorm of queries and keys before RoPE (Qwen3); None: there is none (Llama)."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads over {self.num_kv_heads} key-value heads")


def grouped_attention(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Softmax attention [B, T, H, D] of query [B, T, H, D] over keys and values [B, K, Hkv, D].

    `visible` [B, 1, T, K] is True where a query may look. The heads that share a key head are
    laid along the query axis, so that keys are neither repeated nor copied.
    """
    num_rows, width, num_heads, head_dim = query.shape
    kv_heads = keys.shape[2]
    groups = num_heads // kv_heads
    assert keys.shape == values.shape, f"keys {tuple(keys.shape)}, values {tuple(values.shape)}"
    assert visible.shape == (num_rows, 1, width, keys.shape[1]), (
        f"mask {tuple(visible.shape)} for query {tuple(query.shape)}, keys {tuple(keys.shape)}"
    )
    folded = query.view(num_rows, width, kv_heads, groups, head_dim).permute(0, 2, 3, 1, 4)
    mask = visible.unsqueeze(2).expand(-1, -1, groups, -1, -1)
    out = F.scaled_dot_product_attention(
        folded.reshape(num_rows, kv_heads, groups * width, head_dim),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask.reshape(num_rows, 1, groups * width, -1),
    )
    unfolded = out.view(num_rows, kv_heads, groups, width, head_dim).permute(0, 3, 1, 2, 4)
    return unfolded.reshape(num_rows, width, num_heads, head_dim)


class CachedAttention(nn.Module):
    """One layer's attention for the tokens of a `KvPlan`."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.shape = shape
        inner = shape.num_heads * shape.head_dim
        kv_inner = shape.num_kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, inner, bias=shape.bias)
        self.k_proj = nn.Linear(shape.hidden_size, kv_inner, bias=shape.bias)
        self.v_proj = nn.Linear(shape.hidden_size, kv_inner, bias=shape.bias)
        self.o_proj = nn.Linear(inner, shape.hidden_size, bias=shape.bias)
        if shape.qk_norm_eps is not None:
            self.q_norm = RMSNorm(shape.head_dim, shape.qk_norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.qk_norm_eps)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], kv: SlotKV, layer: int, plan: KvPlan
    ) -> Tensor:
        """[N, C] -> [N, C]; appends to `kv`. `turn`: cos and sin of the tokens' positions."""
        shape = self.shape
        tokens = x.shape[0]
        query = self.q_proj(x).view(tokens, shape.num_heads, shape.head_dim)
        keys = self.k_proj(x).view(tokens, shape.num_kv_heads, shape.head_dim)
        values = self.v_proj(x).view(tokens, shape.num_kv_heads, shape.head_dim)
        if shape.qk_norm_eps is not None:
            query, keys = self.q_norm(query), self.k_norm(keys)
        query = rotate(query, *turn)
        kv.append(layer, plan, rotate(keys, *turn), values)
        mixed = grouped_attention(_pad(query, plan), *kv.rows(layer, plan), plan.visible)
        out: Tensor = self.o_proj(_unpad(mixed, plan).flatten(1))
        return out


def _pad(tokens: Tensor, plan: KvPlan) -> Tensor:
    """[N, H, D] -> [B, T, H, D]."""
    if plan.is_dense:
        return tokens.view(plan.num_rows, plan.width, *tokens.shape[1:])
    padded = torch.zeros(
        plan.num_rows, plan.width, *tokens.shape[1:], device=tokens.device, dtype=tokens.dtype
    )
    padded[plan.token_row, plan.token_column] = tokens
    return padded


def _unpad(rows: Tensor, plan: KvPlan) -> Tensor:
    """[B, T, H, D] -> [N, H, D]."""
    if plan.is_dense:
        return rows.flatten(0, 1)
    return rows[plan.token_row, plan.token_column]
