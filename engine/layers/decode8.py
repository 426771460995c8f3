"""Attention of one query a row straight over keys and values in e4m3, on CUDA."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from engine.layers.decode8_kernels import (
    HEAD_DIMS,
    HEADS_PER_BLOCK,
    LEAST_SHARE,
    MOST_GROUP,
    MOST_SPLITS,
    SOURCES,
    THREADS,
)
from engine.layers.fp8 import Cells8
from engine.layers.nvrtc import compiled
from engine.layers.varlen import VarlenLayout

_BLOCKS_PER_PROCESSOR = 4
"""Twice what runs at once, so that short rows leave no multiprocessor idle."""


def _kernel(name: str, device: int, head_dim: int) -> Any | None:
    return compiled(SOURCES[name, head_dim], name, device)


def decode8(query: Tensor, cells: Cells8, rates: Tensor, layout: VarlenLayout) -> Tensor | None:
    """Softmax attention [N, H, D] of one query a row, rotated, [N, H, D], over `cells`.

    The same as `read8` and `varlen_attention`, in float16 products that sum in float32: a query
    beyond 65504 is infinite. What queries behind the last row get is undefined. None where no
    kernel can do it.
    """
    kv_heads, head_dim = cells.keys.shape[2:]
    heads, rows = query.shape[1], layout.used.shape[0]
    if head_dim not in HEAD_DIMS or heads > MOST_GROUP * kv_heads:
        return None
    if query.device.type != "cuda" or query.dtype != torch.bfloat16:
        return None
    device = query.device.index or 0
    kernel, combine = (_kernel(name, device, head_dim) for name in ("decode8", "combine8"))
    if kernel is None or combine is None:
        return None
    assert query.is_contiguous() and cells.keys.is_contiguous() and cells.values.is_contiguous()
    blocks = -(-kv_heads // HEADS_PER_BLOCK)
    splits = _splits(_processors(device), rows * blocks, layout.max_keys)
    mixed = torch.empty(rows, splits, heads, head_dim, device=query.device)
    sums = torch.empty(rows, splits, heads, 2, device=query.device)
    kernel(
        (splits, rows, blocks),
        (THREADS, 1, 1),
        [
            query,
            cells.keys,
            cells.values,
            cells.key_scales,
            cells.value_scales,
            rates,
            layout.query_starts,
            layout.key_starts,
            layout.used,
            mixed,
            sums,
            heads,
            kv_heads,
            head_dim**-0.5,
        ],
    )
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
