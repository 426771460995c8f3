"""Attention of one query a row straight over a cache of grouped keys, on CUDA.

FlashAttention's own way for one query copies queries and results into another order and back, and
leaves multiprocessors idle where rows differ in length; 8 bits it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from engine.gpu.kernels.fp8_kv import Fp8Cells
from engine.gpu.kernels.loader import Kernel
from engine.gpu.layers.varlen_attention import VarlenLayout

HEAD_DIMS = (64, 128)
MOST_GROUP = 8
"""Queries that share a head of keys."""
THREADS = 256
HEADS_PER_BLOCK = THREADS // 32
LEAST_SHARE = 64
"""Positions that are worth a block of their own: what a block leaves behind is an eighth of it."""
MOST_SPLITS = THREADS
"""As many as the threads of `combine`."""
_SHARES = {"TILE": 16, "CHUNK": 32, "LEAST_SHARE": LEAST_SHARE, "THREADS": THREADS}
_BLOCKS_PER_PROCESSOR = 4
"""More than run at once, so that short rows leave no multiprocessor idle."""


class DecodeKernels(NamedTuple):
    """What runs a step's attention for heads of one size."""

    parts: Kernel
    """Of each row, several at once."""
    combine: Kernel

    @classmethod
    def of(cls, name: str, kind: str, head_dim: int, lift: int) -> DecodeKernels:
        """`kind`: of the products; `lift`: what the values are divided by."""
        sizes = {"DIM": head_dim, **_SHARES}
        return cls(
            Kernel(name, torch.bfloat16, KIND=f'"{kind}"', **sizes),
            Kernel("combine", torch.bfloat16, LIFT=f"{lift}.f", **sizes),
        )


DECODE16 = {dim: DecodeKernels.of("decode16", "bf16", dim, 1) for dim in HEAD_DIMS}
DECODE8 = {dim: DecodeKernels.of("decode8", "f16", dim, 256) for dim in HEAD_DIMS}


def decode8(query: Tensor, cells: Fp8Cells, rates: Tensor, layout: VarlenLayout) -> Tensor | None:
    """Softmax attention [N, H, D] of one query a row, rotated, [N, H, D], over `cells`.

    The same as `read8` and `varlen_attention`, in float16 products that sum in float32: a query
    beyond 65504 is infinite. What queries behind the last row get is undefined. None where no
    kernel can do it.
    """
    given = [cells.keys, cells.values, cells.key_scales, cells.value_scales, rates]
    return _run(DECODE8, query, given, layout)


def decode16(query: Tensor, keys: Tensor, values: Tensor, layout: VarlenLayout) -> Tensor | None:
    """`varlen_attention` of one query a row; None where no kernel can do it."""
    if keys.dtype != torch.bfloat16:
        return None
    return _run(DECODE16, query, [keys, values], layout)


def _run(
    pairs: Mapping[int, DecodeKernels], query: Tensor, given: Sequence[Tensor], layout: VarlenLayout
) -> Tensor | None:
    """`given`: keys and values [S, L, Hkv, D], and what else the kernel takes of them."""
    kv_heads, head_dim = given[0].shape[2:]
    heads, rows = query.shape[1], layout.used.shape[0]
    pair = pairs.get(head_dim)
    if pair is None or heads > MOST_GROUP * kv_heads:
        return None
    kernel, combine = pair.parts.on(query), pair.combine.on(query)
    if kernel is None or combine is None:
        return None
    assert query.is_contiguous() and all(tensor.is_contiguous() for tensor in given)
    blocks = -(-kv_heads // HEADS_PER_BLOCK)
    splits = _splits(_processors(query.device), rows * blocks, layout.max_keys)
    mixed = torch.empty(rows, splits, heads, head_dim, device=query.device)
    sums = torch.empty(rows, splits, heads, 2, device=query.device)
    starts = [layout.query_starts, layout.key_starts, layout.used]
    numbers = [heads, kv_heads, head_dim**-0.5]
    kernel((splits, rows, blocks), (THREADS, 1, 1), [query, *given, *starts, mixed, sums, *numbers])
    out = torch.empty_like(query)
    combine(
        (heads, rows, 1),
        (THREADS, 1, 1),
        [mixed, sums, layout.query_starts, layout.used, out, splits],
    )
    return out


@cache
def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _splits(processors: int, blocks: int, max_keys: int) -> int:
    """Into how many parts the keys of a row are split, for so many blocks without a split."""
    most = min(MOST_SPLITS, -(-max_keys // LEAST_SHARE))
    return max(1, min(most, _BLOCKS_PER_PROCESSOR * processors // blocks))
