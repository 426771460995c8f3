// A step's attention over keys and values in bfloat16.
// What a lane holds of keys and queries is chosen so that 16-byte loads come out as the products want
// them: the order of the dimensions does not matter as long as keys and queries agree.
#include "bf16.cuh"
#include "warp.cuh"
#include "decode.cuh"
#include "tensor_core.cuh"

// A pair of bfloat16 in 32 bits.
__device__ __forceinline__ unsigned pair(float low, float high) {
    unsigned out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

#define ALL 0xffffffffu

struct Tile {
    uint4 keys[2][DIM / 32];    // of positions lane / 4 and 8 more: 8 dimensions of every 32
    uint4 values[4][DIM / 64];  // of four positions: 8 dimensions of every 64
};

struct Row {
    const bf16 *keys, *values;  // of this head, at position 0
    int stride, end;
};

__device__ __forceinline__ uint4 load(const bf16* from, bool is_there) {
    return is_there ? __ldg((const uint4*)from) : make_uint4(0u, 0u, 0u, 0u);
}

__device__ __forceinline__ void load_keys(Tile& tile, const Row& row, int position, int lane) {
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
        int at = position + lane / 4 + 8 * r;
        const bf16* from = row.keys + (long long)at * row.stride + lane % 4 * 8;
        #pragma unroll
        for (int w = 0; w < DIM / 32; ++w) tile.keys[r][w] = load(from + 32 * w, at < row.end);
    }
}

__device__ __forceinline__ void load_values(Tile& tile, const Row& row, int position, int lane) {
    #pragma unroll
    for (int r = 0; r < 4; ++r) {
        int at = position + lane % 4 * 2 + r % 2 + r / 2 * 8;
        const bf16* from = row.values + (long long)at * row.stride + lane / 4 * 8;
        #pragma unroll
        for (int u = 0; u < DIM / 64; ++u) tile.values[r][u] = load(from + 64 * u, at < row.end);
    }
}

// Scores of 16 keys [lane / 4 and 8 more] for two queries [2 (lane % 4) and the next].
__device__ __forceinline__ void score(float* scores, const Tile& tile, const uint4* query) {
    #pragma unroll
    for (int w = 0; w < DIM / 32; ++w) {
        const uint4 near = tile.keys[0][w], far = tile.keys[1][w];
        const unsigned first[4] = {near.x, far.x, near.y, far.y};
        const unsigned second[4] = {near.z, far.z, near.w, far.w};
        product(scores, first, query[w].x, query[w].y);
        product(scores, second, query[w].z, query[w].w);
    }
}

// The scores become weights for the products with values.
__device__ __forceinline__ void weigh(Sums& sums, const float* scores, int position, int end,
                                      float scale, int lane, unsigned* weights) {
    float x[2][2], factor[2];
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
        bool is_there = position + lane / 4 + 8 * r < end;
        x[r][0] = is_there ? scores[2 * r] * scale : __int_as_float(0xff800000);
        x[r][1] = is_there ? scores[2 * r + 1] * scale : __int_as_float(0xff800000);
    }
    #pragma unroll
    for (int q = 0; q < 2; ++q) {
        float peak = fmaxf(x[0][q], x[1][q]);
        for (int d = 4; d < 32; d <<= 1) peak = fmaxf(peak, __shfl_xor_sync(ALL, peak, d));
        peak = fmaxf(peak, sums.peak[q]);
        factor[q] = power_of_2(sums.peak[q] - peak);
        sums.peak[q] = peak;
        x[0][q] = power_of_2(x[0][q] - peak);
        x[1][q] = power_of_2(x[1][q] - peak);
        sums.total[q] = sums.total[q] * factor[q] + x[0][q] + x[1][q];
    }
    #pragma unroll
    for (int r = 0; r < 2; ++r) weights[r] = transposed(pair(x[r][0], x[r][1]));
    rescale(sums, factor);
}

__device__ __forceinline__ void mix_pair(float* sums, unsigned a, unsigned b, unsigned c,
                                         unsigned d, const unsigned* weights) {
    const unsigned left[4] = {__byte_perm(a, b, 0x5410u), __byte_perm(a, b, 0x7632u),
                              __byte_perm(c, d, 0x5410u), __byte_perm(c, d, 0x7632u)};
    product(sums, left, weights[0], weights[1]);
}

__device__ __forceinline__ void mix(Sums& sums, const Tile& tile, const unsigned* weights) {
    #pragma unroll
    for (int u = 0; u < DIM / 64; ++u) {
        const uint4 a = tile.values[0][u], b = tile.values[1][u];
        const uint4 c = tile.values[2][u], d = tile.values[3][u];
        mix_pair(sums.mixed[4 * u], a.x, b.x, c.x, d.x, weights);
        mix_pair(sums.mixed[4 * u + 1], a.y, b.y, c.y, d.y, weights);
        mix_pair(sums.mixed[4 * u + 2], a.z, b.z, c.z, d.z, weights);
        mix_pair(sums.mixed[4 * u + 3], a.w, b.w, c.w, d.w, weights);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
decode16(const bf16* query, const bf16* keys, const bf16* values, const int* query_starts,
         const int* key_starts, const int* used, float* mixed, float* sums_out, int num_heads,
         int kv_heads, double scale) {
    int token = query_starts[blockIdx.y], share = share_of(used[blockIdx.y], gridDim.x);
    int begin = blockIdx.x * share, end = min(used[blockIdx.y], begin + share);
    int lane = threadIdx.x & 31, head = blockIdx.z * (THREADS / 32) + threadIdx.x / 32;
    if (query_starts[blockIdx.y + 1] == token || begin >= end || head >= kv_heads) return;
    int group = num_heads / kv_heads;
    Row row;
    row.stride = kv_heads * DIM;
    row.end = end;
    long long first = ((long long)key_starts[blockIdx.y] * kv_heads + head) * DIM;
    row.keys = keys + first;
    row.values = values + first;
    uint4 own[DIM / 32];
    #pragma unroll
    for (int w = 0; w < DIM / 32; ++w) {
        long long at = ((long long)token * num_heads + head * group + lane / 4) * DIM;
        own[w] = load(query + at + 32 * w + lane % 4 * 8, lane / 4 < group);
    }
    float factor = (float)scale * 1.4426950408889634f;
    Sums sums;
    clear(sums);
    Tile tile;
    load_keys(tile, row, begin, lane);
    load_values(tile, row, begin, lane);
    for (int position = begin; position < end; position += TILE) {
        float scores[4] = {0.f, 0.f, 0.f, 0.f};
        unsigned weights[2];
        score(scores, tile, own);
        load_keys(tile, row, position + TILE, lane);
        weigh(sums, scores, position, end, factor, lane, weights);
        mix(sums, tile, weights);
        load_values(tile, row, position + TILE, lane);
    }
    #pragma unroll
    for (int q = 0; q < 2; ++q) {
        for (int d = 4; d < 32; d <<= 1)
            sums.total[q] += __shfl_xor_sync(ALL, sums.total[q], d);
        int in_group = lane % 4 * 2 + q;
        if (in_group >= group) continue;
        long long at = ((long long)blockIdx.y * gridDim.x + blockIdx.x) * num_heads
            + head * group + in_group;
        #pragma unroll
        for (int j = 0; j < DIM / 16; ++j)
            *(float2*)(mixed + at * DIM + j / 4 * 64 + lane / 4 * 8 + j % 4 * 2) =
                make_float2(sums.mixed[j][q], sums.mixed[j][q + 2]);
        if (lane / 4 == 0) *(float2*)(sums_out + 2 * at) = make_float2(sums.peak[q], sums.total[q]);
    }
}
