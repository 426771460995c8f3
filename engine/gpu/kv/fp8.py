"""Keys and values in 8 bits: a slot of the language model takes half the memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.gpu.kernels.decode_attention import decode8
from engine.gpu.kernels.fp8_kv import Fp8Cells, read8, store8
from engine.gpu.kv.base import SlotCache
from engine.gpu.kv.plan import TokenPlan
from engine.gpu.layers.norms import RMSNorm
from engine.gpu.layers.rope import Rope
from engine.gpu.layers.varlen_attention import VarlenLayout

_SCALE_BYTES = 4


class Fp8KV(SlotCache):
    """Rows in e4m3 (arXiv 2209.05433), with a scale for each position and head.

    Keys are stored before the rotation and rotated by their index in the slot when they are read:
    rows that slide are copied as they are, since rounding to 8 bits again would add to the error
    with each slide.
    """

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
        """`dtype`: of queries, and of keys and values once they are read."""
        scales_shape = (num_layers, num_slots, max_len + 1, num_kv_heads)
        shape = (*scales_shape, head_dim)
        keys, values = (torch.zeros(shape, device=device, dtype=torch.uint8) for _ in range(2))
        scales = tuple(torch.zeros(scales_shape, device=device) for _ in range(2))
        # Bytes can be moved and cleared on every device, 8-bit floats not in all releases of torch.
        super().__init__(keys, values, *scales)
        self.keys, self.values = (list(x.view(torch.float8_e4m3fn)) for x in (keys, values))
        self.layers = [
            Fp8Cells(*parts) for parts in zip(self.keys, self.values, *scales, strict=True)
        ]
        # Of one layer at a time, for attention that cannot read 8 bits.
        self._unpacked = torch.zeros((2, *shape[1:]), device=device, dtype=dtype)

    @staticmethod
    def bytes_per_position(
        num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        del dtype
        return 2 * num_layers * num_kv_heads * (head_dim + _SCALE_BYTES)

    @classmethod
    def bytes_per_slot(
        cls, num_layers: int, max_len: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        kept = super().bytes_per_slot(num_layers, max_len, num_kv_heads, head_dim, dtype)
        return kept + (max_len + 1) * 2 * num_kv_heads * head_dim * dtype.itemsize

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._unpacked.nbytes

    def _store(
        self,
        layer: int,
        packed: Tensor,
        norms: tuple[RMSNorm, RMSNorm] | None,
        rates: Tensor,
        plan: TokenPlan,
        num_heads: int,
    ) -> Tensor:
        cells = self.layers[layer]
        return store8(packed, norms, rates, plan.positions, plan.write, cells, num_heads)

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
