// The largest magnitude of eight values each of a block's threads, and its scale in e4m3. NaN is the
// largest of all; `parts` has a word for each warp.
#include "e4m3.cuh"

__device__ __forceinline__ unsigned larger(unsigned most, const float* values) {
    #pragma unroll
    for (int i = 0; i < 8; ++i) most = max(most, __float_as_uint(values[i]) & 0x7fffffffu);
    return most;
}
__device__ __forceinline__ float step_of_block(unsigned most, unsigned* parts) {
    most = __reduce_max_sync(0xffffffffu, most);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = most;
    __syncthreads();
    most = (threadIdx.x & 31) < (blockDim.x >> 5) ? parts[threadIdx.x & 31] : 0u;
    float largest = __uint_as_float(__reduce_max_sync(0xffffffffu, most));
    if (largest < 1e-20f) largest = 1e-20f;
    return largest * (1.f / 448.f);
}
__device__ __forceinline__ void store8(const float* from, float step, e4m3* to) {
    uint2 raw;
    e4m3* parts = (e4m3*)&raw;
    #pragma unroll
    for (int i = 0; i < 8; ++i) parts[i] = small(from[i] / step);
    *(uint2*)to = raw;
}
