// Norm queries and keys, rotate queries, store keys and values in 8 bits; a warp has a head of a token.
#include "bf16.cuh"
#include "warp.cuh"
#include "e4m3.cuh"

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
