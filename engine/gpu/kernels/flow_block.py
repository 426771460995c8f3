"""Steps between the matrix products of the flow's estimator, each as one kernel on CUDA in float16.

Written out in torch operations a block has twenty-seven kernels of a few microseconds, many of them
copies that put frames behind a stream's tail; so it has twelve. The kernels here round where the
torch operations round; those are used on other devices, for other types and sizes, and where NVRTC
is not to be had.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.kernels.compiler import WARP_SUM, compiled, null

TAIL = 2
"""Inputs that a causal convolution of three looks back."""

_ROWS_PER_BLOCK = 4
_THREADS = 256
_MOST_SIZE = 1024

_HALF = r"""
typedef unsigned short f16;
__device__ __forceinline__ float wide(f16 x) {
    float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y;
}
__device__ __forceinline__ f16 narrow(float x) {
    f16 y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y;
}
__device__ __forceinline__ float rounded(float x) { return wide(narrow(x)); }
__device__ __forceinline__ void load(const f16* from, float* to) {
    const uint4 raw = *(const uint4*)from;
    const f16* parts = (const f16*)&raw;
    #pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = wide(parts[i]);
}
__device__ __forceinline__ void store(const float* from, f16* to) {
    uint4 raw;
    f16* parts = (f16*)&raw;
    #pragma unroll
    for (int i = 0; i < 8; ++i) parts[i] = narrow(from[i]);
    *(uint4*)to = raw;
}
"""

_GATED_NORM = (
    _HALF
    + WARP_SUM
    + r"""
__device__ __forceinline__ float mish(float x) {
    if (x > 20.f) return x;
    float e = __expf(x), n = e * (e + 2.f);
    return x * n / (n + 2.f);
}
// A warp has a frame, a lane every 32nd group of eight channels.
extern "C" __global__ void gated_norm(const f16* x, const f16* delta, const f16* gate,
                                      const f16* shift, const f16* scale, const f16* old,
                                      const long long* last, f16* sum, f16* out, f16* tail,
                                      int frames, int width, int size, int is_mish, double eps) {
    int frame = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (frame >= frames) return;
    long long base = (long long)frame * size;
    float kept[4][8], total = 0.f;
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
        int at = (lane + 32 * v) * 8;
        if (at < size) {
            load(x + base + at, kept[v]);
            if (delta) {
                float more[8], factor[8];
                load(delta + base + at, more);
                load(gate + at, factor);
                #pragma unroll
                for (int i = 0; i < 8; ++i) kept[v][i] = rounded(kept[v][i] + more[i] * factor[i]);
                store(kept[v], sum + base + at);
            }
            #pragma unroll
            for (int i = 0; i < 8; ++i) total += kept[v][i];
        }
    }
    float mean = warp_sum(total) / size, square = 0.f;
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
        if ((lane + 32 * v) * 8 < size) {
            #pragma unroll
            for (int i = 0; i < 8; ++i) {
                float d = kept[v][i] - mean;
                square += d * d;
            }
        }
    }
    float rate = rsqrtf(warp_sum(square) / size + (float)eps);
    // Columns: a frame is the last third of its own row, and parts of the two rows behind.
    int row = frame / width, t = frame - row * width;
    int step = old ? 3 * size : size;
    f16* own = out + (long long)frame * step;
    long long end = old ? last[row * 2] - (long long)row * (width + 2) : 0;
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
        int at = (lane + 32 * v) * 8;
        if (at >= size) continue;
        float factor[8], offset[8];
        load(scale + at, factor);
        load(shift + at, offset);
        #pragma unroll
        for (int i = 0; i < 8; ++i) {
            float y = (kept[v][i] - mean) * rate * factor[i] + offset[i];
            kept[v][i] = is_mish ? mish(rounded(y)) : y;
        }
        if (!old) {
            store(kept[v], own + at);
            continue;
        }
        store(kept[v], own + 2 * size + at);
        if (t + 1 < width) store(kept[v], own + step + size + at);
        if (t + 2 < width) store(kept[v], own + 2 * step + at);
        f16* kept_tail = tail + (long long)row * 2 * size + at;
        if (t + 2 == end) store(kept[v], kept_tail);
        if (t + 1 == end) store(kept[v], kept_tail + size);
        if (t == 0) {
            const f16* before = old + (long long)row * 2 * size + at;
            const uint4 first = *(const uint4*)before, second = *(const uint4*)(before + size);
            *(uint4*)(own + at) = first;
            *(uint4*)(own + size + at) = second;
            if (width > 1) *(uint4*)(own + step + at) = second;
            if (end == 0) *(uint4*)kept_tail = first;
            if (end == 0) *(uint4*)(kept_tail + size) = second;
            if (end == 1) *(uint4*)kept_tail = second;
        }
    }
}
"""
)

_STORE_HEADS = (
    _HALF
    + r"""
// A head of a frame has dim / 8 lanes; queries, keys and values of a frame lie behind each other.
extern "C" __global__ void store_heads(const f16* packed, const f16* weights, const f16* biases,
                                       const long long* write, f16* query, f16* keys,
                                       f16* values, int frames, int heads, int dim, double eps) {
    int lanes = dim / 8, total = frames * 3 * heads;
    int id = blockIdx.x * blockDim.x + threadIdx.x, item = id / lanes, part = id % lanes;
    bool is_there = item < total;
    if (!is_there) item = total - 1;
    int frame = item / (3 * heads), head = item - frame * 3 * heads, kind = head / heads;
    head -= kind * heads;
    float kept[8], sum = 0.f, square = 0.f;
    load(packed + (long long)item * dim + part * 8, kept);
    #pragma unroll
    for (int i = 0; i < 8; ++i) sum += kept[i];
    for (int d = lanes / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    float mean = sum / dim;
    #pragma unroll
    for (int i = 0; i < 8; ++i) square += (kept[i] - mean) * (kept[i] - mean);
    for (int d = lanes / 2; d > 0; d >>= 1) square += __shfl_xor_sync(0xffffffffu, square, d);
    float rate = rsqrtf(square / dim + (float)eps);
    if (!is_there) return;
    if (kind < 2) {
        float factor[8], offset[8];
        load(weights + kind * dim + part * 8, factor);
        load(biases + kind * dim + part * 8, offset);
        #pragma unroll
        for (int i = 0; i < 8; ++i)
            kept[i] = offset[i] + rounded((kept[i] - mean) * rate) * factor[i];
    }
    f16* to = kind == 0 ? query : kind == 1 ? keys : values;
    long long place = kind == 0 ? frame : write[frame];
    store(kept, to + (place * heads + head) * dim + part * 8);
}
"""
)

_SOURCES = {"gated_norm": _GATED_NORM, "store_heads": _STORE_HEADS}


class Norm(NamedTuple):
    """A layer norm's vectors [C] and epsilon."""

    shift: Tensor
    scale: Tensor
    eps: float


class Gated(NamedTuple):
    """What a part of a block adds to its input: [N, C] times the gate [C]."""

    delta: Tensor
    gate: Tensor


def _kernel(name: str, device: int) -> Any | None:
    return compiled(_SOURCES[name], name, device)


def _on_cuda(name: str, x: Tensor, fits: bool) -> Any | None:
    if x.device.type != "cuda" or x.dtype != torch.float16 or not fits:
        return None
    return _kernel(name, x.device.index or 0)


def gated_norm(x: Tensor, more: Gated | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """The sum of x [N, C] and what a part adds to it, and its norm."""
    kernel = _on_cuda("gated_norm", x, _fits(x))
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
    kernel = _on_cuda("gated_norm", x, _fits(x) and old.is_contiguous())
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
    kernel: Any,
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
    kernel = _on_cuda("store_heads", packed, fits and packed.is_contiguous())
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
