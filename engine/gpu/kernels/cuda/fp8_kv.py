"""The kernels of `fp8.py`, as NVRTC compiles them; each is told there in torch operations."""

from __future__ import annotations

from engine.gpu.kernels.compiler import COMMON

READ_POSITIONS = 16
"""Positions that a block of `read8` takes at a time."""

_E4M3 = r"""
typedef unsigned char e4m3;
// Rounds to even as torch does, for |x| up to 448 and a rounding error more.
__device__ __forceinline__ e4m3 small(float x) {
    unsigned bits = __float_as_uint(x), sign = (bits >> 24) & 0x80u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (e4m3)(sign | 0x7fu);
    if (bits > 0x43e00000u) bits = 0x43e00000u;
    if (bits < 0x3c800000u)
        // Below 2^-6 the step is 2^-9, which is that of float32 between 2^14 and 2^15.
        bits = __float_as_uint(__uint_as_float(bits) + 16384.f) - 0x46800000u;
    else
        bits = (bits + 0x7ffffu + ((bits >> 20) & 1u) - (120u << 23)) >> 20;
    return (e4m3)(sign | bits);
}
// Of the lowest byte; the NaN is not told from 480: its scale is NaN as well.
__device__ __forceinline__ float number(unsigned byte) {
    return __uint_as_float(((byte & 0x80u) << 24) | ((byte & 0x7fu) << 20))
        * 1.329227995784916e36f;
}
"""

_STORE8 = r"""
__device__ __forceinline__ float entry(const bf16* from, const bf16* weight, float scale, int i) {
    float v = wide(from[i]);
    return weight ? rounded(rounded(v * scale) * wide(weight[i])) : v;
}
extern "C" __global__ void store8(const bf16* packed, const bf16* q_weight, const bf16* k_weight,
                                  const float* rates, const int* positions, const int* write,
                                  bf16* query, e4m3* keys, e4m3* values, float* key_scales,
                                  float* value_scales, int num_heads, int kv_heads, int head_dim,
                                  int normed, double eps) {
    int lane = threadIdx.x, head = blockIdx.y * blockDim.y + threadIdx.y;
    int all = num_heads + 2 * kv_heads;
    if (head >= all) return;
    long long token = blockIdx.x;
    const bf16* from = packed + (token * all + head) * head_dim;
    const bf16* weight = 0;
    float scale = 1.f;
    if (normed && head < num_heads + kv_heads) {
        weight = head < num_heads ? q_weight : k_weight;
        float total = 0.f;
        for (int i = lane; i < head_dim; i += 32) { float v = wide(from[i]); total += v * v; }
        scale = rsqrtf(warp_sum(total) / head_dim + (float)eps);
    }
    if (head < num_heads) {
        bf16* to = query + (token * num_heads + head) * head_dim;
        int half = head_dim / 2;
        float position = (float)positions[token];
        for (int i = lane; i < half; i += 32) {
            float a = entry(from, weight, scale, i), b = entry(from, weight, scale, i + half), s, c;
            sincosf(position * rates[i], &s, &c);
            to[i] = narrow(a * c - b * s);
            to[i + half] = narrow(b * c + a * s);
        }
        return;
    }
    head -= num_heads;
    bool is_key = head < kv_heads;
    if (!is_key) head -= kv_heads;
    long long place = (long long)write[token] * kv_heads + head;
    float most = 0.f;
    for (int i = lane; i < head_dim; i += 32) {
        float v = fabsf(entry(from, weight, scale, i));
        // NaN beats every number.
        if (!(v <= most) && most == most) most = v;
    }
    for (int d = 16; d > 0; d >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, most, d);
        if (!(other <= most) && most == most) most = other;
    }
    if (most < 1e-20f) most = 1e-20f;
    float step = most * (1.f / 448.f);
    e4m3* to = (is_key ? keys : values) + place * head_dim;
    for (int i = lane; i < head_dim; i += 32) to[i] = small(entry(from, weight, scale, i) / step);
    if (lane == 0) (is_key ? key_scales : value_scales)[place] = step;
}
"""

_READ8 = r"""
__device__ __forceinline__ unsigned both(float low, float high) {
    return (unsigned)narrow(low) | ((unsigned)narrow(high) << 16);
}
extern "C" __global__ void read8(const e4m3* keys, const e4m3* values, const float* key_scales,
                                 const float* value_scales, const float* rates,
                                 const int* key_starts, const int* used, bf16* keys_out,
                                 bf16* values_out, int kv_heads, int head_dim) {
    int half = head_dim / 2, at = threadIdx.x % (head_dim / 8) * 4;
    int own = threadIdx.x / (head_dim / 8), count = used[blockIdx.y];
    for (int position = blockIdx.x * POSITIONS + own; position < count;
         position += gridDim.x * POSITIONS) {
        float c[4], s[4];
        for (int i = 0; i < 4; ++i) sincosf((float)position * rates[at + i], &s[i], &c[i]);
        long long place = ((long long)key_starts[blockIdx.y] + position) * kv_heads;
        #pragma unroll 2
        for (int head = 0; head < kv_heads; ++head, ++place) {
            long long first = place * head_dim + at;
            unsigned low = *(const unsigned*)(keys + first);
            unsigned high = *(const unsigned*)(keys + first + half);
            float scale = key_scales[place], x[4], y[4];
            for (int i = 0; i < 4; ++i) {
                float a = number(low >> (8 * i)) * scale, b = number(high >> (8 * i)) * scale;
                x[i] = a * c[i] - b * s[i];
                y[i] = b * c[i] + a * s[i];
            }
            *(uint2*)(keys_out + first) = make_uint2(both(x[0], x[1]), both(x[2], x[3]));
            *(uint2*)(keys_out + first + half) = make_uint2(both(y[0], y[1]), both(y[2], y[3]));
            low = *(const unsigned*)(values + first);
            high = *(const unsigned*)(values + first + half);
            scale = value_scales[place];
            for (int i = 0; i < 4; ++i) {
                x[i] = number(low >> (8 * i)) * scale;
                y[i] = number(high >> (8 * i)) * scale;
            }
            *(uint2*)(values_out + first) = make_uint2(both(x[0], x[1]), both(x[2], x[3]));
            *(uint2*)(values_out + first + half) = make_uint2(both(y[0], y[1]), both(y[2], y[3]));
        }
    }
}
"""

SOURCES = {
    "store8": COMMON + _E4M3 + _STORE8,
    "read8": COMMON + _E4M3 + f"#define POSITIONS {READ_POSITIONS}\n" + _READ8,
}
