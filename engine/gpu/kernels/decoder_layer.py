"""Steps between matrix products, each as one kernel on CUDA: a decoder layer's in bfloat16.

Written out in torch operations a layer has about sixty small kernels, which take longer than
reading the weights does for a few rows. The kernels here round where the torch operations round;
those are used on other devices, for other types, and where NVRTC is not to be had.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.kernels.loader import Argument, Kernel, null
from engine.gpu.layers.norms import RMSNorm
from engine.gpu.layers.rope import rotate

_WARP = 32
_MOST_THREADS = 1024
_HEADS_PER_BLOCK = 4
_MUL_THREADS = 256

_ADD_NORM = Kernel("add_norm", torch.bfloat16)
_ROPE_STORE = Kernel("rope_store", torch.bfloat16)
_ROTATE_KEYS = Kernel("rotate_keys", torch.bfloat16)
_SILU_MUL = Kernel("silu_mul", torch.bfloat16)


def add_norm(x: Tensor, delta: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """`x + delta` (or x) and its norm, both [N, C]."""
    size = x.shape[1]
    threads = min(_MOST_THREADS, -(-size // (8 * _WARP)) * _WARP)
    # A thread takes eight values at a time, and twice at most.
    kernel = _ADD_NORM.on(x, size % 8 == 0 and size <= 16 * threads)
    if kernel is None:
        total = x if delta is None else x + delta
        return total, norm(total)
    assert x.is_contiguous() and (delta is None or delta.is_contiguous())
    out = torch.empty_like(x)
    total = x if delta is None else torch.empty_like(x)
    more = null(x.device) if delta is None else delta
    arguments: list[Argument] = [x, more, norm.weight, total, out, size, float(norm.eps)]
    kernel((x.shape[0], 1, 1), (threads, 1, 1), arguments)
    return total, out


def rope_store(
    packed: Tensor,
    norms: tuple[RMSNorm, RMSNorm] | None,
    rates: Tensor,
    positions: Tensor,
    write: Tensor,
    keys: Tensor,
    values: Tensor,
    num_heads: int,
) -> Tensor:
    """Norm and rotate queries and keys, store keys and values; returns the queries [N, H, D].

    Args:
        packed: queries, keys and values [N, (H + 2 Hkv) * D].
        norms: of query and key heads, if the model has them.
        rates: of the rotation [D / 2], float32.
        positions: [N] int32.
        write: [N] int32, index among the cache's positions laid end to end.
        keys, values: cache [S, L, Hkv, D].
    """
    kv_heads, head_dim = keys.shape[2:]
    all_heads = num_heads + 2 * kv_heads
    kernel = _ROPE_STORE.on(packed)
    if kernel is None:
        query, fresh, value = normed_heads(packed, norms, num_heads, kv_heads, head_dim)
        angles = positions.float()[:, None, None] * rates
        cos, sin = angles.cos(), angles.sin()
        place = write.long()
        keys.flatten(0, 1)[place] = rotate(fresh, cos, sin)
        values.flatten(0, 1)[place] = value
        return rotate(query, cos, sin)
    assert packed.is_contiguous() and keys.is_contiguous() and values.is_contiguous()
    count = packed.shape[0]
    query = packed.new_empty(count, num_heads, head_dim)
    weights, normed = norm_arguments(norms, packed.device)
    kernel(
        (count, -(-all_heads // _HEADS_PER_BLOCK), 1),
        (_WARP, _HEADS_PER_BLOCK, 1),
        [
            packed,
            *weights,
            rates,
            positions,
            write,
            query,
            keys,
            values,
            num_heads,
            kv_heads,
            head_dim,
            *normed,
        ],
    )
    return query


def norm_arguments(
    norms: tuple[RMSNorm, RMSNorm] | None, device: torch.device
) -> tuple[list[Tensor], list[int | float]]:
    """What kernels are told of the norms of query and key heads: their weights, whether there are
    any, and their epsilon."""
    if norms is None:
        return [null(device)] * 2, [0, 0.0]
    return [norm.weight for norm in norms], [1, float(norms[0].eps)]


def normed_heads(
    packed: Tensor,
    norms: tuple[RMSNorm, RMSNorm] | None,
    num_heads: int,
    kv_heads: int,
    head_dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [N, H, D], keys and values [N, Hkv, D] of them packed [N, (H + 2 Hkv) * D].

    Without kernels; `norms` of query and key heads, if the model has them.
    """
    heads = packed.view(-1, num_heads + 2 * kv_heads, head_dim)
    query, keys, values = torch.split(heads, [num_heads, kv_heads, kv_heads], dim=1)
    if norms is None:
        return query, keys, values
    return norms[0](query), norms[1](keys), values


def rotate_keys(keys: Tensor, shift: int, rates: Tensor) -> Tensor:
    """Keys [layers, T, H, D], stored rotated, rotated on by `shift` positions; a new tensor."""
    layers, count, heads, head_dim = keys.shape
    is_laid_out = keys[0].is_contiguous() and keys.stride(0) < 2**31
    kernel = _ROTATE_KEYS.on(keys, is_laid_out)
    if kernel is None:
        angles = shift * rates[None, None]
        return rotate(keys, angles.cos(), angles.sin())
    out = keys.new_empty(keys.shape)
    grid = (-(-count * heads // _HEADS_PER_BLOCK), layers, 1)
    arguments: list[Argument] = [keys, rates, out, shift, count * heads, keys.stride(0), head_dim]
    kernel(grid, (_WARP, _HEADS_PER_BLOCK, 1), arguments)
    return out


def silu_mul(both: Tensor) -> Tensor:
    """silu(first half) * second half: [N, 2 I] -> [N, I]."""
    count, inner = both.shape[0], both.shape[1] // 2
    kernel = _SILU_MUL.on(both, inner % 8 == 0)
    if kernel is None:
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up
    assert both.is_contiguous()
    out = both.new_empty(count, inner)
    # 32 bits at most: the argument is passed as an int.
    blocks = -(-out.numel() // (8 * _MUL_THREADS))
    kernel((blocks, 1, 1), (_MUL_THREADS, 1, 1), [both, out, inner, out.numel()])
    return out
