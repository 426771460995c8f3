"""Attention of one query a row straight over a cache of grouped keys, on CUDA.

FlashAttention's own way for one query copies queries and results into another order and back, and
leaves multiprocessors idle where rows differ in length; 8 bits it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from engine.gpu.kernels.compiler import compiled
from engine.gpu.kernels.cuda import decode_bf16 as decode16_kernels
from engine.gpu.kernels.cuda import decode_fp8 as decode8_kernels
from engine.gpu.kernels.cuda.decode_common import (
    HEAD_DIMS,
    HEADS_PER_BLOCK,
    LEAST_SHARE,
    MOST_GROUP,
    MOST_SPLITS,
    THREADS,
)
from engine.gpu.kernels.fp8_kv import Cells8
from engine.gpu.layers.varlen_attention import VarlenLayout

_BLOCKS_PER_PROCESSOR = 4
"""More than run at once, so that short rows leave no multiprocessor idle."""


def decode8(query: Tensor, cells: Cells8, rates: Tensor, layout: VarlenLayout) -> Tensor | None:
    """Softmax attention [N, H, D] of one query a row, rotated, [N, H, D], over `cells`.

    The same as `read8` and `varlen_attention`, in float16 products that sum in float32: a query
    beyond 65504 is infinite. What queries behind the last row get is undefined. None where no
    kernel can do it.
    """
    given = [cells.keys, cells.values, cells.key_scales, cells.value_scales, rates]
    return _run("decode8", decode8_kernels.SOURCES, query, given, layout)


def decode16(query: Tensor, keys: Tensor, values: Tensor, layout: VarlenLayout) -> Tensor | None:
    """`varlen_attention` of one query a row; None where no kernel can do it."""
    if keys.dtype != torch.bfloat16:
        return None
    return _run("decode16", decode16_kernels.SOURCES, query, [keys, values], layout)


def _kernel(source: str, name: str, device: int) -> Any | None:
    return compiled(source, name, device)


def _run(
    name: str,
    sources: Mapping[tuple[str, int], str],
    query: Tensor,
    given: Sequence[Tensor],
    layout: VarlenLayout,
) -> Tensor | None:
    """`given`: keys and values [S, L, Hkv, D], and what else the kernel takes of them."""
    kv_heads, head_dim = given[0].shape[2:]
    heads, rows = query.shape[1], layout.used.shape[0]
    if head_dim not in HEAD_DIMS or heads > MOST_GROUP * kv_heads:
        return None
    if query.device.type != "cuda" or query.dtype != torch.bfloat16:
        return None
    device = query.device.index or 0
    kernel, combine = (_kernel(sources[part, head_dim], part, device) for part in (name, "combine"))
    if kernel is None or combine is None:
        return None
    assert query.is_contiguous() and all(tensor.is_contiguous() for tensor in given)
    blocks = -(-kv_heads // HEADS_PER_BLOCK)
    splits = _splits(_processors(device), rows * blocks, layout.max_keys)
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
def _processors(device: int) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _splits(processors: int, blocks: int, max_keys: int) -> int:
    """Into how many parts the keys of a row are split, for so many blocks without a split."""
    most = min(MOST_SPLITS, -(-max_keys // LEAST_SHARE))
    return max(1, min(most, _BLOCKS_PER_PROCESSOR * processors // blocks))
