"""Keys and values in 8 bits: a slot of the language model takes half the memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.gpu.kernels.decode_attention import decode8
from engine.gpu.kernels.decoder_layer import PackedHeads
from engine.gpu.kernels.fp8_kv import Fp8Cells, read8, store8
from engine.gpu.kv.cache import CacheSpec, SlotCache
from engine.gpu.layers.rope import Rope
from engine.gpu.layers.varlen_attention import VarlenLayout

_SCALE_BYTES = 4


class Fp8KV(SlotCache):
    """Rows in e4m3 (arXiv 2209.05433), with a scale for each position and head.

    Keys are stored before the rotation and rotated by their index in the slot when they are read:
    rows that slide are copied as they are, since rounding to 8 bits again would add to the error
    with each slide.
    """

    def __init__(self, spec: CacheSpec, num_slots: int) -> None:
        device = spec.device
        scales_shape = (spec.num_layers, num_slots, spec.max_len + 1, spec.num_kv_heads)
        shape = (*scales_shape, spec.head_dim)
        keys, values = (torch.zeros(shape, device=device, dtype=torch.uint8) for _ in range(2))
        scales = tuple(torch.zeros(scales_shape, device=device) for _ in range(2))
        # Bytes can be moved and cleared on every device, 8-bit floats not in all releases of torch.
        super().__init__(keys, values, *scales)
        self.keys, self.values = (list(x.view(torch.float8_e4m3fn)) for x in (keys, values))
        self.layers = [
            Fp8Cells(*parts) for parts in zip(self.keys, self.values, *scales, strict=True)
        ]
        # Of one layer at a time, for attention that cannot read 8 bits.
        self._unpacked = torch.zeros((2, *shape[1:]), device=device, dtype=spec.dtype)

    @staticmethod
    def bytes_per_position(spec: CacheSpec) -> int:
        return 2 * spec.num_layers * spec.num_kv_heads * (spec.head_dim + _SCALE_BYTES)

    @classmethod
    def bytes_per_slot(cls, spec: CacheSpec) -> int:
        unpacked = 2 * spec.num_kv_heads * spec.head_dim * spec.dtype.itemsize
        return super().bytes_per_slot(spec) + (spec.max_len + 1) * unpacked

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._unpacked.nbytes

    def _store(self, layer: int, heads: PackedHeads) -> Tensor:
        return store8(heads, self.layers[layer])

    def _decode(
        self, layer: int, query: Tensor, rates: Tensor, layout: VarlenLayout
    ) -> Tensor | None:
        return decode8(query, self.layers[layer], rates, layout)

    def _read(self, layer: int, rates: Tensor, layout: VarlenLayout) -> tuple[Tensor, Tensor]:
        keys, values = self._unpacked
        read8(self.layers[layer], rates, layout, keys, values)
        return keys, values

    def reset(self, slots: Sequence[int]) -> None:
        super().reset(slots)
        for slot in slots:
            self._unpacked[:, slot].zero_()

    def _moved_keys(self, keys: Tensor, shift: int, rope: Rope) -> Tensor:
        del shift, rope
        return keys.clone()
