"""What the kernels of `decode.py` have in common, as NVRTC compiles them.

A block takes part of a row's positions, and each of its warps one head of keys with all its
queries, 16 positions at a time, on tensor cores. `combine` puts the parts of a row together.
"""

from __future__ import annotations

from engine.gpu.kernels.compiler import COMMON

HEAD_DIMS = (64, 128)
MOST_GROUP = 8
"""Queries that share a head of keys."""
THREADS = 256
HEADS_PER_BLOCK = THREADS // 32
LEAST_SHARE = 64
"""Positions that are worth a block of their own: what a block leaves behind is an eighth of it."""
MOST_SPLITS = THREADS
"""As many as the threads of `combine`."""
CHUNK = 32
"""A block's share of positions is a multiple of it."""

_SHARE = r"""
// Positions of each split of a row; the last one's may be fewer, and of some there are none.
__device__ __forceinline__ int share_of(int used, int splits) {
    int share = (used + splits - 1) / splits;
    share = (share + CHUNK - 1) / CHUNK * CHUNK;
    return share < LEAST_SHARE ? LEAST_SHARE : share;
}
"""

PTX = r"""
__device__ __forceinline__ float power_of_2(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
// Of an 8 x 8 matrix whose row lane / 4 has its columns 2 (lane % 4) and the next in each lane.
__device__ __forceinline__ unsigned transposed(unsigned x) {
    unsigned out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(x));
    return out;
}
"""

_PRODUCT = r"""
// sum [16, 8] += left [16, 16] * right [16, 8]
__device__ __forceinline__ void product(float* sum, const unsigned* left, unsigned right0,
                                        unsigned right1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.KIND.KIND.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}
"""

SUMS = r"""
struct Sums {
    float peak[2], total[2];  // of two queries; the total is this lane's
    float mixed[DIM / 16][4];  // two dimensions of two queries each
};
__device__ __forceinline__ void clear(Sums& sums) {
    #pragma unroll
    for (int j = 0; j < DIM / 16; ++j)
        sums.mixed[j][0] = sums.mixed[j][1] = sums.mixed[j][2] = sums.mixed[j][3] = 0.f;
    sums.peak[0] = sums.peak[1] = __int_as_float(0xff800000);
    sums.total[0] = sums.total[1] = 0.f;
}
// What is there already, by the factors that higher peaks make of its weights.
__device__ __forceinline__ void rescale(Sums& sums, const float* factor) {
    if (__any_sync(0xffffffffu, factor[0] != 1.f || factor[1] != 1.f)) {
        #pragma unroll
        for (int j = 0; j < DIM / 16; ++j) {
            sums.mixed[j][0] *= factor[0]; sums.mixed[j][1] *= factor[1];
            sums.mixed[j][2] *= factor[0]; sums.mixed[j][3] *= factor[1];
        }
    }
}
"""

COMBINE = r"""
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
"""


def product(kind: str) -> str:
    """Products of tensor cores: of `f16` or `bf16`, sums in float32."""
    return _PRODUCT.replace("KIND", kind)


def source(head_dim: int, *parts: str, lift: int = 1) -> str:
    """The whole text of a kernel. `lift`: what the values were divided by."""
    numbers = {
        "DIM": head_dim,
        "TILE": 16,
        "CHUNK": CHUNK,
        "LEAST_SHARE": LEAST_SHARE,
        "THREADS": THREADS,
        "LIFT": f"{lift}.f",
    }
    defines = "".join(f"#define {name} {value}\n" for name, value in numbers.items())
    return "".join((defines, COMMON, _SHARE, *parts))
