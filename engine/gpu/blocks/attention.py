"""Causal self-attention with grouped keys over a cache of slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.blocks.linear import pack
from engine.gpu.kernels.decoder_layer import PackedHeads
from engine.gpu.kv.base import SlotCache
from engine.gpu.kv.plan import TokenPlan
from engine.gpu.layers.norms import RMSNorm


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of one attention layer."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qk_norm_eps: float | None = None
    """Per-head RMSNorm of queries and keys before RoPE (Qwen3); None: there is none (Llama)."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads over {self.num_kv_heads} key-value heads")


class CachedAttention(nn.Module):
    """One layer's attention for the tokens of a `TokenPlan`."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.shape = shape
        inner = shape.num_heads * shape.head_dim
        kv_inner = shape.num_kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_inner, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_inner, bias=False)
        self.o_proj = nn.Linear(inner, shape.hidden_size, bias=False)
        self.packed: Tensor | None = None
        if shape.qk_norm_eps is not None:
            self.q_norm = RMSNorm(shape.head_dim, shape.qk_norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.qk_norm_eps)

    def finish_loading(self) -> None:
        """Lay the three input weights together; they become views of the whole."""
        self.packed = pack(self.q_proj, self.k_proj, self.v_proj)

    def forward(
        self, x: Tensor, rates: Tensor, kv: SlotCache, layer: int, plan: TokenPlan
    ) -> Tensor:
        """[N, C] -> [N, C]; appends to `kv`. `rates`: of the rotation, [D / 2]."""
        shape = self.shape
        weight = self.packed
        if weight is None:
            weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        norms = None if shape.qk_norm_eps is None else (self.q_norm, self.k_norm)
        heads = PackedHeads(
            F.linear(x, weight), norms, rates, plan.positions, plan.write, shape.num_heads
        )
        mixed = kv.attend(layer, heads, plan.layout)
        out: Tensor = self.o_proj(mixed.flatten(1))
        return out
