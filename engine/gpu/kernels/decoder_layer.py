"""Steps between matrix products, each as one kernel on CUDA: a decoder layer's in bfloat16.

Written out in torch operations a layer has about sixty small kernels, which take longer than
reading the weights does for a few rows. The kernels here round where the torch operations round;
those are used on other devices, for other types, and where NVRTC is not to be had.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.kernels.compiler import COMMON, compiled, null
from engine.gpu.layers.norms import RMSNorm
from engine.gpu.layers.rope import rotate

_WARP = 32
_MOST_THREADS = 1024
_HEADS_PER_BLOCK = 4
_MUL_THREADS = 256

_ADD_NORM = (
    COMMON
    + r"""
__device__ __forceinline__ void load(const bf16* from, float* to) {
    const uint4 raw = *(const uint4*)from;
    const bf16* parts = (const bf16*)&raw;
    for (int i = 0; i < 8; ++i) to[i] = wide(parts[i]);
}
__device__ __forceinline__ void store(const float* from, bf16* to) {
    uint4 raw;
    bf16* parts = (bf16*)&raw;
    for (int i = 0; i < 8; ++i) parts[i] = narrow(from[i]);
    *(uint4*)to = raw;
}
extern "C" __global__ void add_norm(const bf16* x, const bf16* delta, const bf16* weight,
                                    bf16* sum, bf16* out, int size, double eps) {
    __shared__ float parts[32];
    long long base = (long long)blockIdx.x * size;
    float kept[2][8], total = 0.f;
    #pragma unroll
    for (int v = 0; v < 2; ++v) {
        int at = (threadIdx.x + v * blockDim.x) * 8;
        if (at < size) {
            load(x + base + at, kept[v]);
            if (delta) {
                float more[8];
                load(delta + base + at, more);
                for (int i = 0; i < 8; ++i) kept[v][i] = rounded(kept[v][i] + more[i]);
                store(kept[v], sum + base + at);
            }
            for (int i = 0; i < 8; ++i) total += kept[v][i] * kept[v][i];
        }
    }
    total = warp_sum(total);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = total;
    __syncthreads();
    total = (threadIdx.x & 31) < (blockDim.x >> 5) ? parts[threadIdx.x & 31] : 0.f;
    float scale = rsqrtf(warp_sum(total) / size + (float)eps);
    #pragma unroll
    for (int v = 0; v < 2; ++v) {
        int at = (threadIdx.x + v * blockDim.x) * 8;
        if (at < size) {
            float factor[8];
            load(weight + at, factor);
            for (int i = 0; i < 8; ++i) kept[v][i] = rounded(kept[v][i] * scale) * factor[i];
            store(kept[v], out + base + at);
        }
    }
}
"""
)

_TURN_STORE = (
    COMMON
    + r"""
extern "C" __global__ void turn_store(const bf16* packed, const bf16* q_weight,
                                      const bf16* k_weight, const float* rates,
                                      const int* positions, const int* write, bf16* query,
                                      bf16* keys, bf16* values, int num_heads, int kv_heads,
                                      int head_dim, int normed, double eps) {
    int lane = threadIdx.x, head = blockIdx.y * blockDim.y + threadIdx.y;
    int all = num_heads + 2 * kv_heads;
    if (head >= all) return;
    long long token = blockIdx.x;
    const bf16* from = packed + (token * all + head) * head_dim;
    long long place = ((long long)write[token] * kv_heads) * head_dim;
    if (head >= num_heads + kv_heads) {
        bf16* to = values + place + (head - num_heads - kv_heads) * head_dim;
        for (int i = lane; i < head_dim; i += 32) to[i] = from[i];
        return;
    }
    bool is_key = head >= num_heads;
    bf16* to = is_key ? keys + place + (head - num_heads) * head_dim
                      : query + (token * num_heads + head) * head_dim;
    const bf16* weight = is_key ? k_weight : q_weight;
    int half = head_dim / 2;
    float scale = 1.f;
    if (normed) {
        float total = 0.f;
        for (int i = lane; i < head_dim; i += 32) { float v = wide(from[i]); total += v * v; }
        scale = rsqrtf(warp_sum(total) / head_dim + (float)eps);
    }
    float position = (float)positions[token];
    for (int i = lane; i < half; i += 32) {
        float a = wide(from[i]), b = wide(from[i + half]), s, c;
        if (normed) {
            a = rounded(rounded(a * scale) * wide(weight[i]));
            b = rounded(rounded(b * scale) * wide(weight[i + half]));
        }
        sincosf(position * rates[i], &s, &c);
        to[i] = narrow(a * c - b * s);
        to[i + half] = narrow(b * c + a * s);
    }
}
"""
)

_SILU_MUL = (
    COMMON
    + r"""
extern "C" __global__ void silu_mul(const bf16* both, bf16* out, int inner, int total) {
    long long at = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (at >= total) return;
    long long row = at / inner, column = at - row * inner;
    const uint4 gates = *(const uint4*)(both + row * 2 * inner + column);
    const uint4 ups = *(const uint4*)(both + row * 2 * inner + inner + column);
    const bf16 *g = (const bf16*)&gates, *u = (const bf16*)&ups;
    uint4 result;
    bf16* r = (bf16*)&result;
    for (int i = 0; i < 8; ++i) {
        float v = wide(g[i]);
        r[i] = narrow(rounded(v / (1.f + __expf(-v))) * wide(u[i]));
    }
    *(uint4*)(out + at) = result;
}
"""
)

_TURN_ROWS = (
    COMMON
    + r"""
extern "C" __global__ void turn_rows(const bf16* x, const float* rates, bf16* out, int shift,
                                     int heads, int layer_stride, int head_dim) {
    int head = blockIdx.x * blockDim.y + threadIdx.y, half = head_dim / 2;
    if (head >= heads) return;
    const bf16* from = x + (long long)blockIdx.y * layer_stride + (long long)head * head_dim;
    bf16* to = out + ((long long)blockIdx.y * heads + head) * head_dim;
    for (int i = threadIdx.x; i < half; i += 32) {
        float a = wide(from[i]), b = wide(from[i + half]), s, c;
        sincosf((float)shift * rates[i], &s, &c);
        to[i] = narrow(a * c - b * s);
        to[i + half] = narrow(b * c + a * s);
    }
}
"""
)

_SOURCES = {
    "add_norm": _ADD_NORM,
    "turn_store": _TURN_STORE,
    "turn_rows": _TURN_ROWS,
    "silu_mul": _SILU_MUL,
}


def _kernel(name: str, device: int) -> Any | None:
    return compiled(_SOURCES[name], name, device)


def _on_cuda(name: str, x: Tensor) -> Any | None:
    if x.device.type != "cuda" or x.dtype != torch.bfloat16:
        return None
    return _kernel(name, x.device.index or 0)


def add_norm(x: Tensor, delta: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """`x + delta` (or x) and its norm, both [N, C]."""
    size = x.shape[1]
    threads = min(_MOST_THREADS, -(-size // (8 * _WARP)) * _WARP)
    # A thread takes eight values at a time, and twice at most.
    kernel = _on_cuda("add_norm", x) if size % 8 == 0 and size <= 16 * threads else None
    if kernel is None:
        total = x if delta is None else x + delta
        return total, norm(total)
    assert x.is_contiguous() and (delta is None or delta.is_contiguous())
    out = torch.empty_like(x)
    total = x if delta is None else torch.empty_like(x)
    more = null(x.device) if delta is None else delta
    arguments = [x, more, norm.weight, total, out, size, float(norm.eps)]
    kernel((x.shape[0], 1, 1), (threads, 1, 1), arguments)
    return total, out


def turn_store(
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
    kernel = _on_cuda("turn_store", packed)
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


def turn_rows(keys: Tensor, shift: int, rates: Tensor) -> Tensor:
    """Keys [layers, T, H, D], stored turned, turned on by `shift` positions; a new tensor."""
    layers, count, heads, head_dim = keys.shape
    is_laid_out = keys[0].is_contiguous() and keys.stride(0) < 2**31
    kernel = _on_cuda("turn_rows", keys) if is_laid_out else None
    if kernel is None:
        angles = shift * rates[None, None]
        return rotate(keys, angles.cos(), angles.sin())
    out = keys.new_empty(keys.shape)
    grid = (-(-count * heads // _HEADS_PER_BLOCK), layers, 1)
    arguments = [keys, rates, out, shift, count * heads, keys.stride(0), head_dim]
    kernel(grid, (_WARP, _HEADS_PER_BLOCK, 1), arguments)
    return out


def silu_mul(both: Tensor) -> Tensor:
    """silu(first half) * second half: [N, 2 I] -> [N, I]."""
    count, inner = both.shape[0], both.shape[1] // 2
    kernel = _on_cuda("silu_mul", both) if inner % 8 == 0 else None
    if kernel is None:
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up
    assert both.is_contiguous()
    out = both.new_empty(count, inner)
    # 32 bits at most: the argument is passed as an int.
    blocks = -(-out.numel() // (8 * _MUL_THREADS))
    kernel((blocks, 1, 1), (_MUL_THREADS, 1, 1), [both, out, inner, out.numel()])
    return out
