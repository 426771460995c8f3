"""The layers of a decoder over a cache of slots: attention with grouped keys, SwiGLU, norms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.gpu.blocks.linear import (
    FewBits,
    Format,
    Weight,
    pack,
    product,
    quantised,
    takes_narrow,
)
from engine.gpu.kernels.decoder_layer import PackedHeads, Rows, add_norm, silu_mul
from engine.gpu.kv.cache import SlotCache, TokenPlan
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
        self.packed: Weight | None = None
        self.out: FewBits | None = None
        """In the place of `o_proj`, where the weights are in 4 or 8 bits."""
        if shape.qk_norm_eps is not None:
            self.q_norm = RMSNorm(shape.head_dim, shape.qk_norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.qk_norm_eps)

    def finish_loading(self) -> None:
        """Lay the three input weights together; they become views of the whole."""
        if self.out is None:
            self.packed = pack(self.q_proj, self.k_proj, self.v_proj)

    def replace_products(self, packed: FewBits, out: FewBits) -> None:
        """Take these in the place of the linear layers, which go."""
        if self.out is None:
            del self.q_proj, self.k_proj, self.v_proj, self.o_proj
        self.packed, self.out = packed, out

    def forward(self, x: Rows, rates: Tensor, kv: SlotCache, layer: int, plan: TokenPlan) -> Tensor:
        """[N, C] -> [N, C]; appends to `kv`. `rates`: of the rotation, [D / 2]."""
        shape = self.shape
        weight = self.packed
        if weight is None:
            weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        norms = None if shape.qk_norm_eps is None else (self.q_norm, self.k_norm)
        heads = PackedHeads(
            product(x, weight), norms, rates, plan.positions, plan.write, shape.num_heads
        )
        mixed = kv.attend(layer, heads, plan.layout)
        return product(mixed.flatten(1), self.out or self.o_proj.weight)


class GatedMlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), no biases (arXiv 2002.05202)."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)
        self.packed: Weight | None = None
        self.down: FewBits | None = None
        """In the place of `down_proj`, where the weights are in 4 or 8 bits."""

    def finish_loading(self) -> None:
        """Lay the two input weights together; they become views of the whole."""
        if self.down is None:
            self.packed = pack(self.gate_proj, self.up_proj)

    def replace_products(self, gates: FewBits, down: FewBits) -> None:
        """Take these in the place of the linear layers, which go."""
        if self.down is None:
            del self.gate_proj, self.up_proj, self.down_proj
        self.packed, self.down = gates, down

    def forward(self, x: Rows) -> Tensor:
        weight = self.packed
        if weight is None:
            weight = torch.cat([self.gate_proj.weight, self.up_proj.weight])
        inner = silu_mul(product(x, weight), narrow=takes_narrow(self.down))
        return product(inner, self.down or self.down_proj.weight)


class DecoderLayer(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, shape: AttentionShape, inner: int, eps: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, eps)
        self.self_attn = CachedAttention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, eps)
        self.mlp = GatedMlp(shape.hidden_size, inner)

    def quantise(self, form: Format) -> None:
        """Put the weights of its products, once they are loaded, into 4 or 8 bits."""
        self.replace_products(*(quantised(weight, form) for weight in self._products()))

    def move_products(self, device: torch.device) -> None:
        """Put weights that are in 4 or 8 bits onto another device."""
        moved = []
        for weight in self._products():
            assert isinstance(weight, FewBits), "not in 4 or 8 bits"
            moved.append(weight.to(device))
        self.replace_products(*moved)

    def _products(self) -> tuple[Weight, Weight, Weight, Weight]:
        attention, mlp = self.self_attn, self.mlp
        assert attention.packed is not None and mlp.packed is not None, "not loaded yet"
        return (
            attention.packed,
            attention.out or attention.o_proj.weight,
            mlp.packed,
            mlp.down or mlp.down_proj.weight,
        )

    def replace_products(
        self, packed: FewBits, out: FewBits, gates: FewBits, down: FewBits
    ) -> None:
        """Take these in the place of the linear layers, which go."""
        self.self_attn.replace_products(packed, out)
        self.mlp.replace_products(gates, down)

    def forward(
        self,
        x: Tensor,
        delta: Tensor | None,
        rates: Tensor,
        kv: SlotCache,
        layer: int,
        plan: TokenPlan,
    ) -> tuple[Tensor, Tensor]:
        """The stream x [N, C] and what the layer before adds to it -> the same behind this one."""
        attention, mlp = self.self_attn, self.mlp
        narrow = takes_narrow(attention.packed)
        x, normed = add_norm(x, delta, self.input_layernorm, narrow=narrow)
        mixed = attention(normed, rates, kv, layer, plan)
        narrow = takes_narrow(mlp.packed)
        x, normed = add_norm(x, mixed, self.post_attention_layernorm, narrow=narrow)
        return x, mlp(normed)


class DecoderStack(nn.Module):
    """Layers and final norm."""

    def __init__(self, shape: AttentionShape, inner: int, eps: float, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(shape, inner, eps) for _ in range(num_layers))
        self.norm = RMSNorm(shape.hidden_size, eps)

    def forward(self, x: Tensor, rates: Tensor, kv: SlotCache, plan: TokenPlan) -> Tensor:
        """[N, C] -> [N, C]."""
        delta: Tensor | None = None
        for index, layer in enumerate(self.layers):
            x, delta = layer(x, delta, rates, kv, index, plan)
        return add_norm(x, delta, self.norm)[1]
