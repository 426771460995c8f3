// silu(first half) * second half of each row; a thread has eight values.
#include "bf16.cuh"
#include "warp.cuh"

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
