// Puts the parts of a row's attention together. LIFT: what the values were divided by.
#include "bf16.cuh"
#include "warp.cuh"
#include "decode.cuh"

#define LANES (DIM / 4)
#define GROUPS (THREADS / LANES)

__device__ __forceinline__ float warp_max(float x) {
    for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}
extern "C" __global__ void combine(const float* mixed, const float* sums,
                                    const int* query_starts, const int* used, bf16* out,
                                    int splits) {
    __shared__ float weights[THREADS], peaks[THREADS / 32], totals[THREADS / 32];
    __shared__ __align__(16) float parts[GROUPS][DIM];
    int row = blockIdx.y, head = blockIdx.x, num_heads = gridDim.x, me = threadIdx.x;
    long long token = query_starts[row];
    if (query_starts[row + 1] == token) return;
    int count = used[row], share = share_of(count, splits);
    int there = (count + share - 1) / share;
    long long first = (long long)row * splits * num_heads + head;
    bool is_there = me < there;
    float2 own = make_float2(__int_as_float(0xff800000), 0.f);
    if (is_there) own = *(const float2*)(sums + 2 * (first + (long long)me * num_heads));
    float peak = warp_max(own.x);
    if ((me & 31) == 0) peaks[me / 32] = peak;
    __syncthreads();
    peak = warp_max(peaks[me & (THREADS / 32 - 1)]);
    float weight = is_there ? exp2f(own.x - peak) : 0.f;
    weights[me] = weight;
    float total = warp_sum(weight * own.y);
    if ((me & 31) == 0) totals[me / 32] = total;
    __syncthreads();
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    #pragma unroll 4
    for (int split = me / LANES; split < there; split += GROUPS) {
        const float* from = mixed + (first + (long long)split * num_heads) * DIM + me % LANES * 4;
        float4 part = *(const float4*)from;
        float by = weights[split];
        sum.x += by * part.x; sum.y += by * part.y; sum.z += by * part.z; sum.w += by * part.w;
    }
    *(float4*)(parts[me / LANES] + me % LANES * 4) = sum;
    __syncthreads();
    if (me >= DIM) return;
    float value = 0.f;
    total = 0.f;
    for (int i = 0; i < GROUPS; ++i) value += parts[i][me];
    for (int i = 0; i < THREADS / 32; ++i) total += totals[i];
    out[(token * num_heads + head) * DIM + me] = narrow(there ? value * LIFT / total : 0.f);
}
