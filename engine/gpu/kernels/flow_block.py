"""Steps between the matrix products of the flow's estimator, each as one kernel on CUDA in float16.

Written out in torch operations a block has twenty-seven kernels of a few microseconds, many of them
copies that put frames behind a stream's tail; so it has twelve. The kernels here round where the
torch operations round; those are used on other devices, for other types and sizes, and where NVRTC
is not to be had.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.kernels.loader import Kernel, Launch, null

TAIL = 2
"""Inputs that a causal convolution of three looks back."""

_ROWS_PER_BLOCK = 4
_THREADS = 256
_MOST_SIZE = 1024

_GATED_NORM = Kernel("gated_norm", torch.float16)
_STORE_HEADS = Kernel("store_heads", torch.float16)


class Norm(NamedTuple):
    """A layer norm's vectors [C] and epsilon."""

    shift: Tensor
    scale: Tensor
    eps: float


class Gated(NamedTuple):
    """What a part of a block adds to its input: [N, C] times the gate [C]."""

    delta: Tensor
    gate: Tensor


def gated_norm(x: Tensor, more: Gated | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """The sum of x [N, C] and what a part adds to it, and its norm."""
    kernel = _GATED_NORM.on(x, _fits(x))
    if kernel is None:
        total = x if more is None else torch.addcmul(x, more.delta, more.gate)
        return total, F.layer_norm(total, total.shape[-1:], norm.scale, norm.shift, norm.eps)
    total, out = x if more is None else torch.empty_like(x), torch.empty_like(x)
    _launch(kernel, x, more, norm, None, (total, out, null(x.device)), len(x), is_mish=False)
    return total, out


class Columns(NamedTuple):
    """The input of a causal convolution of three as a matrix."""

    sum: Tensor
    """[N, C]"""
    columns: Tensor
    """[N, 3 * C] of each frame: the two before it and itself."""
    tail: Tensor
    """[B, 2, C] the last valid inputs: what the next chunk is put behind."""


def gated_columns(
    x: Tensor,
    more: Gated | None,
    norm: Norm,
    old: Tensor,
    last: Tensor,
    *,
    is_mish: bool = False,
) -> Columns:
    """As `gated_norm`, the norm (and mish of it) put behind the tails of the rows, as columns.

    Args:
        x: [N, C], of B rows with as many frames each.
        old: tails [B, 2, C].
        last: [B * 2] where the last valid inputs of each row are, if the rows with their tails
            in front lie end to end.
    """
    rows, width, size = len(old), len(x) // len(old), x.shape[1]
    kernel = _GATED_NORM.on(x, _fits(x) and old.is_contiguous())
    if kernel is None:
        total, out = gated_norm(x, more, norm)
        out = (F.mish(out) if is_mish else out).view(rows, width, size)
        behind = torch.cat([old.to(out.dtype), out], dim=1)
        columns = torch.cat([behind[:, i : i + width] for i in range(TAIL + 1)], dim=-1)
        tail = behind.flatten(0, 1).index_select(0, last).view(old.shape)
        return Columns(total, columns.flatten(0, 1), tail)
    total = x if more is None else torch.empty_like(x)
    columns, tail = x.new_empty(len(x), (TAIL + 1) * size), torch.empty_like(old)
    outputs = (total, columns, tail)
    _launch(kernel, x, more, norm, (old, last), outputs, width, is_mish=is_mish)
    return Columns(*outputs)


def _fits(x: Tensor) -> bool:
    return x.is_contiguous() and x.shape[1] % 8 == 0 and x.shape[1] <= _MOST_SIZE


def _launch(
    kernel: Launch,
    x: Tensor,
    more: Gated | None,
    norm: Norm,
    tails: tuple[Tensor, Tensor] | None,
    outputs: tuple[Tensor, Tensor, Tensor],
    width: int,
    *,
    is_mish: bool,
) -> None:
    frames, size = x.shape
    nothing = null(x.device)
    kernel(
        (-(-frames // _ROWS_PER_BLOCK), 1, 1),
        (32, _ROWS_PER_BLOCK, 1),
        [
            x,
            *((nothing, nothing) if more is None else more),
            norm.shift,
            norm.scale,
            *((nothing, nothing) if tails is None else tails),
            *outputs,
            frames,
            width,
            size,
            int(is_mish),
            float(norm.eps),
        ],
    )


def store_heads(
    packed: Tensor, norm: Norm, write: Tensor, keys: Tensor, values: Tensor, num_heads: int
) -> Tensor:
    """Norm queries and keys, store keys and values; returns the queries [N, H, D].

    Args:
        packed: queries, keys and values [N, 3 * H * D].
        norm: of query and key heads, [2, 1, D] each.
        write: [N] index among the cache's cells laid end to end.
        keys, values: cache [S, L, H, D].
    """
    dim = keys.shape[-1]
    lanes = dim // 8
    fits = dim % 8 == 0 and 0 < lanes <= 32 and lanes & (lanes - 1) == 0
    kernel = _STORE_HEADS.on(packed, fits and packed.is_contiguous())
    if kernel is None:
        heads = packed.view(-1, 3, num_heads, dim)
        both, value = heads[:, :2], heads[:, 2]
        normed = F.layer_norm(both, both.shape[-1:], eps=norm.eps)
        query, key = torch.addcmul(norm.shift, normed, norm.scale).unbind(1)
        keys.flatten(0, 1).index_copy_(0, write, key)
        values.flatten(0, 1).index_copy_(0, write, value)
        return query
    assert keys.is_contiguous() and values.is_contiguous()
    count = len(packed)
    query = packed.new_empty(count, num_heads, dim)
    blocks = -(-count * 3 * num_heads * lanes // _THREADS)
    sizes = [count, num_heads, dim, float(norm.eps)]
    tensors = [packed, norm.scale, norm.shift, write, query, keys, values]
    kernel((blocks, 1, 1), (_THREADS, 1, 1), [*tensors, *sizes])
    return query
