// Norm and rotate queries and keys, store keys and values; a warp has a head of a token.
#include "bf16.cuh"
#include "warp.cuh"

extern "C" __global__ void rope_store(const bf16* packed, const bf16* q_weight,
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
