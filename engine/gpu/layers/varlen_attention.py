"""Attention of rows of different lengths over cache rows of different lengths, without padding.

Queries of all rows lie end to end; a row's keys lie anywhere in a cache and their number is a
tensor. On CUDA in a 16-bit type this is one FlashAttention call (arXiv 2307.08691) whose shapes do
not depend on the lengths, so that it can be captured in a CUDA graph; elsewhere a loop over rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class VarlenLayout:
    """Where the rows of one call lie. B rows, int32 on the device of the queries."""

    query_starts: Tensor
    """[B + 1] first query of each row among the N, and the end of the last."""
    key_starts: Tensor
    """[B + 1] first key of each row among the cache's positions laid end to end; the last entry
    is not read."""
    used: Tensor
    """[B] keys of each row, the queries' own included. 0: the row gets zeros."""
    max_query: int
    """Most queries of a row; an upper bound does."""
    max_keys: int
    """Most keys of a row; an upper bound does."""


def varlen_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    layout: VarlenLayout,
    *,
    causal: bool,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention [N, H, D] of query [N, H, D] over cache rows [S, L, Hkv, D].

    With `causal` a row's last query sees all its keys, the one before it one less, and so on. What
    queries behind the last row get is undefined. `scale` is 1/sqrt(D) if not given.
    """
    assert keys.shape == values.shape and keys.ndim == 4, f"{keys.shape}, {values.shape}"
    flat = keys.flatten(0, 1), values.flatten(0, 1)
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return _flash(query, *flat, layout, causal, scale)
    return _by_rows(query, *flat, layout, causal, scale)


def _flash(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    layout: VarlenLayout,
    causal: bool,
    scale: float | None,
) -> Tensor:
    # The public wrappers lack `seqused_k` in some supported releases.
    out: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        keys,
        values,
        layout.query_starts,
        layout.key_starts,
        layout.max_query,
        layout.max_keys,
        0.0,
        causal,
        False,
        scale=scale,
        seqused_k=layout.used,
    )[0]
    return out


def _by_rows(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    layout: VarlenLayout,
    causal: bool,
    scale: float | None,
) -> Tensor:
    out = torch.zeros_like(query)
    bounds, starts = layout.query_starts.tolist(), layout.key_starts.tolist()
    for row, used in enumerate(layout.used.tolist()):
        first, end = bounds[row], bounds[row + 1]
        if first == end or used == 0:
            continue
        own = slice(starts[row], starts[row] + used)
        mask = None
        if causal and end - first > 1:
            shape = (end - first, used)
            mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril(used - shape[0])
        mixed = F.scaled_dot_product_attention(
            query[first:end].transpose(0, 1)[None],
            keys[own].transpose(0, 1)[None],
            values[own].transpose(0, 1)[None],
            attn_mask=mask,
            scale=scale,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        out[first:end] = mixed[0].transpose(0, 1)
    return out
