// Rows in 8 bits, each with its scale; a block has a row, a thread eight values at most VECTORS times.
// GATED: of rows of twice the size silu(first half) * second half.
#include "bf16.cuh"
#include "block.cuh"

extern "C" __global__ void narrow_rows(const bf16* from, e4m3* out, float* scales, int size) {
    __shared__ unsigned parts[32];
    const bf16* row = from + (long long)blockIdx.x * size * (GATED + 1);
    float kept[VECTORS][8];
    unsigned most = 0u;
    #pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        int at = (threadIdx.x + v * blockDim.x) * 8;
        if (at < size) {
            const uint4 raw = *(const uint4*)(row + at);
            const bf16* own = (const bf16*)&raw;
#if GATED
            const uint4 raw_up = *(const uint4*)(row + size + at);
            const bf16* up = (const bf16*)&raw_up;
            for (int i = 0; i < 8; ++i) {
                float gate = wide(own[i]);
                kept[v][i] = rounded(rounded(gate / (1.f + __expf(-gate))) * wide(up[i]));
            }
#else
            for (int i = 0; i < 8; ++i) kept[v][i] = wide(own[i]);
#endif
            most = larger(most, kept[v]);
        }
    }
    float step = step_of_block(most, parts);
    #pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        int at = (threadIdx.x + v * blockDim.x) * 8;
        if (at < size) store8(kept[v], step, out + (long long)blockIdx.x * size + at);
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = step;
}
