"""Keys and values of a decoder, one contiguous row per slot; owned by the engine process."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.gpu.kernels.decode_attention import decode16
from engine.gpu.kernels.decoder_layer import PackedHeads, rope_store, rotate_keys
from engine.gpu.kv.base import CacheSpec, SlotCache
from engine.gpu.layers.rope import Rope
from engine.gpu.layers.varlen_attention import VarlenLayout


class NativeKV(SlotCache):
    """Rows in a type of the model's. Keys are stored rotated to their position."""

    def __init__(self, spec: CacheSpec, num_slots: int) -> None:
        shape = (spec.num_layers, num_slots, spec.max_len + 1, spec.num_kv_heads, spec.head_dim)
        super().__init__(
            *(torch.zeros(shape, device=spec.device, dtype=spec.dtype) for _ in range(2))
        )

    @staticmethod
    def bytes_per_position(spec: CacheSpec) -> int:
        return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * spec.dtype.itemsize

    def _store(self, layer: int, heads: PackedHeads) -> Tensor:
        return rope_store(heads, self.keys[layer], self.values[layer])

    def _decode(
        self, layer: int, query: Tensor, rates: Tensor, layout: VarlenLayout
    ) -> Tensor | None:
        return decode16(query, self.keys[layer], self.values[layer], layout)

    def _read(self, layer: int, rates: Tensor, layout: VarlenLayout) -> tuple[Tensor, Tensor]:
        return self.keys[layer], self.values[layer]

    def _moved_keys(self, keys: Tensor, shift: int, rope: Rope) -> Tensor:
        return rotate_keys(keys, shift, rope.frequencies(self.device))
