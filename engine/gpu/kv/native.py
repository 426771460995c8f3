"""Keys and values of a decoder, one contiguous row per slot; owned by the engine process."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.gpu.kernels.decode_attention import decode16
from engine.gpu.kernels.decoder_layer import rope_store, rotate_keys
from engine.gpu.kv.base import SlotCache
from engine.gpu.kv.plan import TokenPlan
from engine.gpu.layers.norms import RMSNorm
from engine.gpu.layers.rope import Rope
from engine.gpu.layers.varlen_attention import VarlenLayout


class NativeKV(SlotCache):
    """Rows in a type of the model's. Keys are stored rotated to their position."""

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        max_len: int,
        num_kv_heads: int,
        head_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (num_layers, num_slots, max_len + 1, num_kv_heads, head_dim)
        super().__init__(
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=dtype),
        )

    @staticmethod
    def bytes_per_position(
        num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize

    def _store(
        self,
        layer: int,
        packed: Tensor,
        norms: tuple[RMSNorm, RMSNorm] | None,
        rates: Tensor,
        plan: TokenPlan,
        num_heads: int,
    ) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        return rope_store(packed, norms, rates, plan.positions, plan.write, keys, values, num_heads)

    def _decode(
        self, layer: int, query: Tensor, rates: Tensor, layout: VarlenLayout
    ) -> Tensor | None:
        return decode16(query, self.keys[layer], self.values[layer], layout)

    def _read(self, layer: int, rates: Tensor, layout: VarlenLayout) -> tuple[Tensor, Tensor]:
        return self.keys[layer], self.values[layer]

    def _moved_keys(self, keys: Tensor, shift: int, rope: Rope) -> Tensor:
        return rotate_keys(keys, shift, rope.frequencies(self.device))
