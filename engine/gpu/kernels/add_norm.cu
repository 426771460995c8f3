// The sum of x and what a layer adds to it, and its RMS norm; a block has a row.
// NARROW: the norm in 8 bits, with the row's scale.
#include "bf16.cuh"
#include "warp.cuh"
#include "block.cuh"
#if NARROW
typedef e4m3 Out;
#else
typedef bf16 Out;
#endif

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
                                    bf16* sum, Out* out, float* scales, int size, double eps) {
    __shared__ float parts[32];
#if NARROW
    unsigned most = 0u;
#endif
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
#if NARROW
            for (int i = 0; i < 8; ++i) kept[v][i] = rounded(kept[v][i]);
            most = larger(most, kept[v]);
#else
            store(kept[v], out + base + at);
#endif
        }
    }
#if NARROW
    __shared__ unsigned magnitudes[32];
    float step = step_of_block(most, magnitudes);
    #pragma unroll
    for (int v = 0; v < 2; ++v) {
        int at = (threadIdx.x + v * blockDim.x) * 8;
        if (at < size) store8(kept[v], step, out + base + at);
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = step;
#endif
}
