"""Keys and values in e4m3: what stores and reads them.

On CUDA in bfloat16 by kernels; elsewhere, and where NVRTC is not to be had, in
torch operations. A head's numbers at a position share a scale, so that the largest of them is the
largest that e4m3 has: nothing saturates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.gpu.kernels.decoder_layer import PackedHeads
from engine.gpu.kernels.e4m3 import dequantise, quantise
from engine.gpu.kernels.loader import Kernel
from engine.gpu.layers.rope import rotate
from engine.gpu.layers.varlen_attention import VarlenLayout

_READ_POSITIONS = 16
"""Positions that a block of `read8` takes at a time."""
_STORE8 = Kernel("store8", torch.bfloat16)
_READ8 = Kernel("read8", torch.bfloat16, POSITIONS=_READ_POSITIONS)
_READ_BLOCKS = 128
"""Of a row; each takes several times `_READ_POSITIONS` where the row is longer."""


@dataclass(frozen=True)
class Fp8Cells:
    """Keys and values of one layer. Keys are not rotated."""

    keys: Tensor
    """[S, L, Hkv, D] e4m3, times its scale."""
    values: Tensor
    key_scales: Tensor
    """[S, L, Hkv] float32"""
    value_scales: Tensor


# ------------------------------------------------------------------ in


def store8(heads: PackedHeads, cells: Fp8Cells) -> Tensor:
    """Store keys, normed, and values; returns the queries [N, H, D], normed and rotated."""
    kernel = _STORE8.on(heads.packed)
    if kernel is not None:
        return heads.store(kernel, cells.keys, cells.values, cells.key_scales, cells.value_scales)
    query, keys, values = heads.normed(*cells.keys.shape[2:])
    place = heads.write.long()
    for fresh, stored, scales in (
        (keys, cells.keys, cells.key_scales),
        (values, cells.values, cells.value_scales),
    ):
        small, scale = quantise(fresh)
        # Not every device has assignment by index for 8-bit floats.
        stored.view(torch.uint8).flatten(0, 1)[place] = small.view(torch.uint8)
        scales.flatten(0, 1)[place] = scale
    return rotate(query, *heads.angles())


# ------------------------------------------------------------------ out


def read8(
    cells: Fp8Cells, rates: Tensor, layout: VarlenLayout, keys: Tensor, values: Tensor
) -> None:
    """Write what the rows of `layout` see to `keys`, rotated, and `values`, both [S, L, Hkv, D].

    Each row's keys begin a slot, and their index there is their position. Other places of `keys`
    and `values` keep what they hold.
    """
    kv_heads, head_dim = keys.shape[2:]
    # A thread takes eight values of a head at a time.
    kernel = _READ8.on(keys, head_dim % 8 == 0)
    if kernel is None:
        for own in _spans(layout, keys):
            _read_plainly(cells, rates, own, keys, values)
        return
    assert keys.is_contiguous() and values.is_contiguous()
    blocks = min(_READ_BLOCKS, -(-layout.max_keys // _READ_POSITIONS))
    kernel(
        (blocks, layout.used.shape[0], 1),
        (_READ_POSITIONS * max(1, head_dim // 8), 1, 1),
        [
            cells.keys,
            cells.values,
            cells.key_scales,
            cells.value_scales,
            rates,
            layout.key_starts,
            layout.used,
            keys,
            values,
            kv_heads,
            head_dim,
        ],
    )


def _spans(layout: VarlenLayout, keys: Tensor) -> list[slice]:
    """Which positions, among all slots' laid end to end, to read for the rows of a layout."""
    slots, length = keys.shape[:2]
    if keys.device.type != "cpu":
        # Nothing on the host may depend on the numbers: every slot is read whole.
        return [slice(slot * length, (slot + 1) * length) for slot in range(slots)]
    starts, used = layout.key_starts.tolist(), layout.used.tolist()
    return [slice(start, start + n) for start, n in zip(starts, used, strict=False) if n]


def _read_plainly(cells: Fp8Cells, rates: Tensor, own: slice, keys: Tensor, values: Tensor) -> None:
    def wide(stored: Tensor, scales: Tensor) -> Tensor:
        return dequantise(stored.flatten(0, 1)[own], scales.flatten(0, 1)[own])

    fresh = wide(cells.keys, cells.key_scales)
    angles = torch.arange(len(fresh), device=rates.device)[:, None, None] * rates
    keys.flatten(0, 1)[own] = rotate(fresh, angles.cos(), angles.sin()).to(keys.dtype)
    values.flatten(0, 1)[own] = wide(cells.values, cells.value_scales).to(values.dtype)
