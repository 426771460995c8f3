"""Steps between matrix products, each as one kernel on CUDA: a decoder layer's in bfloat16.

Written out in torch operations a layer has about sixty small kernels, which take longer than
reading the weights does for a few rows. The kernels here round where the torch operations round;
those are used on other devices, for other types, and where NVRTC is not to be had.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.kernels.fp8_weights import Fp8Rows, narrow_rows, narrowed
from engine.gpu.kernels.loader import Argument, Kernel, Launch, null
from engine.gpu.layers.norms import RMSNorm
from engine.gpu.layers.rope import rotate

_WARP = 32
_MOST_THREADS = 1024
_HEADS_PER_BLOCK = 4
_MUL_THREADS = 256

_ADD_NORM = Kernel("add_norm", torch.bfloat16, NARROW=0)
_ADD_NORM_NARROW = Kernel("add_norm", torch.bfloat16, NARROW=1)
_ROPE_STORE = Kernel("rope_store", torch.bfloat16)
_ROTATE_KEYS = Kernel("rotate_keys", torch.bfloat16)
_SILU_MUL = Kernel("silu_mul", torch.bfloat16)

Rows = Tensor | Fp8Rows
"""What a product takes: [M, K], or the same in 8 bits."""


@overload
def add_norm(
    x: Tensor, delta: Tensor | None, norm: RMSNorm, *, narrow: Literal[False] = False
) -> tuple[Tensor, Tensor]: ...


@overload
def add_norm(
    x: Tensor, delta: Tensor | None, norm: RMSNorm, *, narrow: bool
) -> tuple[Tensor, Rows]: ...


def add_norm(
    x: Tensor, delta: Tensor | None, norm: RMSNorm, *, narrow: bool = False
) -> tuple[Tensor, Rows]:
    """`x + delta` (or x) and its norm, both [N, C]; `narrow`: the norm in 8 bits."""
    size = x.shape[1]
    threads = min(_MOST_THREADS, -(-size // (8 * _WARP)) * _WARP)
    # A thread takes eight values at a time, at most twice.
    fits = size % 8 == 0 and size <= 16 * threads
    kernel = (_ADD_NORM_NARROW if narrow else _ADD_NORM).on(x, fits)
    if kernel is None:
        total = x if delta is None else x + delta
        return total, narrowed(norm(total)) if narrow else norm(total)
    assert x.is_contiguous() and (delta is None or delta.is_contiguous())
    out = torch.empty_like(x, dtype=torch.uint8 if narrow else x.dtype)
    scales = x.new_empty(x.shape[0], 1, dtype=torch.float32) if narrow else null(x.device)
    total = x if delta is None else torch.empty_like(x)
    more = null(x.device) if delta is None else delta
    arguments: list[Argument] = [x, more, norm.weight, total, out, scales, size, float(norm.eps)]
    kernel((x.shape[0], 1, 1), (threads, 1, 1), arguments)
    if narrow:
        return total, Fp8Rows(out.view(torch.float8_e4m3fn), scales, x.dtype)
    return total, out


class PackedHeads(NamedTuple):
    """What a layer makes of N tokens, and where it goes in a cache of slots."""

    packed: Tensor
    """Queries, keys and values [N, (H + 2 Hkv) * D]."""
    norms: tuple[RMSNorm, RMSNorm] | None
    """Of query and key heads, if the model has them."""
    rates: Tensor
    """Of the rotation [D / 2], float32."""
    positions: Tensor
    """[N] int32, of the rotation."""
    write: Tensor
    """[N] int32, index among the cache's positions laid end to end."""
    num_heads: int
    """H"""

    def angles(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, 1, D / 2] of the rotation."""
        angles = self.positions.float()[:, None, None] * self.rates
        return angles.cos(), angles.sin()

    def normed(self, kv_heads: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, H, D], keys and values [N, Hkv, D], without kernels."""
        parts = self.packed.view(-1, self.num_heads + 2 * kv_heads, head_dim)
        query, keys, values = torch.split(parts, [self.num_heads, kv_heads, kv_heads], dim=1)
        if self.norms is None:
            return query, keys, values
        return self.norms[0](query), self.norms[1](keys), values

    def store(self, kernel: Launch, *cache: Tensor) -> Tensor:
        """Run a kernel that stores keys and values in `cache`; returns the queries [N, H, D].

        `cache`: keys and values [S, L, Hkv, D], and what else the kernel writes of them.
        """
        packed, kv_heads, head_dim = self.packed, *cache[0].shape[2:]
        assert packed.is_contiguous() and all(tensor.is_contiguous() for tensor in cache)
        query = packed.new_empty(packed.shape[0], self.num_heads, head_dim)
        weights, normed = [null(packed.device)] * 2, [0, 0.0]
        if self.norms is not None:
            weights = [norm.weight for norm in self.norms]
            normed = [1, float(self.norms[0].eps)]
        blocks = -(-(self.num_heads + 2 * kv_heads) // _HEADS_PER_BLOCK)
        tensors = [packed, *weights, self.rates, self.positions, self.write, query, *cache]
        kernel(
            (packed.shape[0], blocks, 1),
            (_WARP, _HEADS_PER_BLOCK, 1),
            [*tensors, self.num_heads, kv_heads, head_dim, *normed],
        )
        return query


def rope_store(heads: PackedHeads, keys: Tensor, values: Tensor) -> Tensor:
    """Norm and rotate queries and keys, store keys and values; returns the queries [N, H, D].

    `keys`, `values`: cache [S, L, Hkv, D].
    """
    kernel = _ROPE_STORE.on(heads.packed)
    if kernel is None:
        query, fresh, value = heads.normed(*keys.shape[2:])
        cos, sin = heads.angles()
        place = heads.write.long()
        keys.flatten(0, 1)[place] = rotate(fresh, cos, sin)
        values.flatten(0, 1)[place] = value
        return rotate(query, cos, sin)
    return heads.store(kernel, keys, values)


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


@overload
def silu_mul(both: Tensor, *, narrow: Literal[False] = False) -> Tensor: ...


@overload
def silu_mul(both: Tensor, *, narrow: bool) -> Rows: ...


def silu_mul(both: Tensor, *, narrow: bool = False) -> Rows:
    """silu(first half) * second half: [N, 2 I] -> [N, I]; `narrow`: in 8 bits."""
    if narrow:
        return narrow_rows(both, gated=True) or narrowed(_silu_mul(both))
    return _silu_mul(both)


def _silu_mul(both: Tensor) -> Tensor:
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
