// A step's attention over keys and values in 8 bits, in products of float16: an e4m3 number is a
// float16 one but for a factor of 2^8, and rotated in float16 a key is nearer to the exact one than in
// bfloat16. What a lane holds is chosen so that it has both numbers of the pairs that rotate, and that
// 16-byte loads come out as the products want them.
#include "bf16.cuh"
#include "warp.cuh"
#include "decode.cuh"
#include "tensor_core.cuh"

// Pairs of float16 in 32 bits.
__device__ __forceinline__ unsigned halves(float low, float high) {
    unsigned out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}
__device__ __forceinline__ unsigned times(unsigned a, unsigned b) {
    unsigned out;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}
__device__ __forceinline__ unsigned times_plus(unsigned a, unsigned b, unsigned c) {
    unsigned out;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
}
__device__ __forceinline__ unsigned minus(unsigned a) {
    unsigned out;
    asm("neg.f16x2 %0, %1;" : "=r"(out) : "r"(a));
    return out;
}

typedef unsigned char e4m3;
#define HALF (DIM / 2)
#define SPAN (DIM / 8)
#define WORDS (DIM / 32)
// 8-byte reads of half a warp then lie in different banks.
#define PITCH (HALF + 4)
#define ALL 0xffffffffu

struct Tile {
    unsigned keys[2][2][WORDS];  // of positions lane / 4 and 8 more: both numbers of SPAN pairs
    float key_scales[2], value_scales[2];
    unsigned values[4][WORDS];  // of four positions: SPAN dimensions
};

// Of four e4m3 numbers the first and third, and the others, as float16 2^-8 times as large.
__device__ __forceinline__ unsigned evens(unsigned x) {
    return ((x << 8) & 0x80008000u) | ((x << 7) & 0x3f803f80u);
}
__device__ __forceinline__ unsigned odds(unsigned x) {
    return (x & 0x80008000u) | ((x >> 1) & 0x3f803f80u);
}

__device__ __forceinline__ void load_words(unsigned* to, const e4m3* from) {
#if DIM == 128
    uint4 raw = __ldg((const uint4*)from);
    to[0] = raw.x; to[1] = raw.y; to[2] = raw.z; to[3] = raw.w;
#else
    uint2 raw = __ldg((const uint2*)from);
    to[0] = raw.x; to[1] = raw.y;
#endif
}

struct Row {
    const e4m3 *keys, *values;  // of this head, at position 0
    const float *key_scales, *value_scales;
    int kv_heads, end;
};

__device__ __forceinline__ void load_keys(Tile& tile, const Row& row, int position, int lane) {
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
        int at = position + lane / 4 + 8 * r;
        bool is_there = at < row.end;
        #pragma unroll
        for (int w = 0; w < WORDS; ++w) tile.keys[r][0][w] = tile.keys[r][1][w] = 0u;
        tile.key_scales[r] = tile.value_scales[r] = 1.f;
        if (is_there) {
            const e4m3* from = row.keys + (long long)at * (row.kv_heads * DIM) + lane % 4 * SPAN;
            load_words(tile.keys[r][0], from);
            load_words(tile.keys[r][1], from + HALF);
            tile.key_scales[r] = __ldg(row.key_scales + (long long)at * row.kv_heads);
            tile.value_scales[r] = __ldg(row.value_scales + (long long)at * row.kv_heads);
        }
    }
}

__device__ __forceinline__ void load_values(Tile& tile, const Row& row, int position, int lane) {
    #pragma unroll
    for (int r = 0; r < 4; ++r) {
        int at = position + lane % 4 * 2 + r % 2 + r / 2 * 8;
        #pragma unroll
        for (int w = 0; w < WORDS; ++w) tile.values[r][w] = 0u;
        if (at < row.end)
            load_words(tile.values[r],
                       row.values + (long long)at * (row.kv_heads * DIM) + lane / 4 * SPAN);
    }
}

// How a pair turns: at this thread's next position, and from each of them to the one after it.
struct Turn { float c, s, step_c, step_s; };

// cos and sin of the next CHUNK positions, as float16 [2][CHUNK][PITCH]; of four pairs the second
// and third change places, as `evens` and `odds` give them. A step by multiplication adds 2^-24 to
// the angle: over thousands of them that is less than what float16 leaves out.
__device__ __forceinline__ void fill_turns(unsigned short* turns, Turn& turn) {
    int pair = threadIdx.x % HALF, at = threadIdx.x / HALF;
    pair = (pair & ~3) | (pair & 1) << 1 | (pair >> 1 & 1);
    #pragma unroll
    for (int i = 0; i < CHUNK * HALF / THREADS; ++i, at += THREADS / HALF) {
        unsigned both = halves(turn.c, turn.s);
        turns[at * PITCH + pair] = (unsigned short)both;
        turns[(CHUNK + at) * PITCH + pair] = (unsigned short)(both >> 16);
        float next = turn.c * turn.step_c - turn.s * turn.step_s;
        turn.s = turn.s * turn.step_c + turn.c * turn.step_s;
        turn.c = next;
    }
}

__device__ __forceinline__ void turn(unsigned* left, int r, unsigned a, unsigned b, unsigned c,
                                     unsigned s) {
    left[r] = times_plus(a, c, minus(times(b, s)));
    left[r + 2] = times_plus(b, c, times(a, s));
}

// Scores of 16 keys [lane / 4 and 8 more] for two queries [2 (lane % 4) and the next].
__device__ __forceinline__ void score(float* scores, const Tile& tile, const unsigned short* turns,
                                      const unsigned query[2][2 * WORDS], int lane) {
    #pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        unsigned left[2][4];
        #pragma unroll
        for (int r = 0; r < 2; ++r) {
            const unsigned short* at =
                turns + (lane / 4 + 8 * r) * PITCH + lane % 4 * SPAN + 4 * w;
            const uint2 cosines = *(const uint2*)at, sines = *(const uint2*)(at + CHUNK * PITCH);
            unsigned a = tile.keys[r][0][w], b = tile.keys[r][1][w];
            turn(left[0], r, evens(a), evens(b), cosines.x, sines.x);
            turn(left[1], r, odds(a), odds(b), cosines.y, sines.y);
        }
        product(scores, left[0], query[0][2 * w], query[1][2 * w]);
        product(scores, left[1], query[0][2 * w + 1], query[1][2 * w + 1]);
    }
}

// The scores become weights for the products with values: their scales are in the exponent, so
// that no weight is above 1 whatever the values are.
__device__ __forceinline__ void weigh(Sums& sums, const float* scores, const Tile& tile,
                                      int position, int end, float scale, int lane,
                                      unsigned* weights) {
    float x[2][2], lift[2], factor[2];
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
        bool is_there = position + lane / 4 + 8 * r < end;
        float by = tile.key_scales[r] * scale;
        lift[r] = __log2f(tile.value_scales[r]);
        x[r][0] = is_there ? scores[2 * r] * by : __int_as_float(0xff800000);
        x[r][1] = is_there ? scores[2 * r + 1] * by : __int_as_float(0xff800000);
    }
    #pragma unroll
    for (int q = 0; q < 2; ++q) {
        float peak = fmaxf(x[0][q] + lift[0], x[1][q] + lift[1]);
        for (int d = 4; d < 32; d <<= 1) peak = fmaxf(peak, __shfl_xor_sync(ALL, peak, d));
        peak = fmaxf(peak, sums.peak[q]);
        factor[q] = power_of_2(sums.peak[q] - peak);
        sums.peak[q] = peak;
        sums.total[q] = sums.total[q] * factor[q] + power_of_2(x[0][q] - peak)
            + power_of_2(x[1][q] - peak);
    }
    #pragma unroll
    for (int r = 0; r < 2; ++r)
        weights[r] = transposed(halves(power_of_2(x[r][0] + lift[r] - sums.peak[0]),
                                       power_of_2(x[r][1] + lift[r] - sums.peak[1])));
    rescale(sums, factor);
}

__device__ __forceinline__ void mix(Sums& sums, const Tile& tile, const unsigned* weights) {
    #pragma unroll
    for (int j = 0; j < DIM / 16; ++j) {
        unsigned pick = j % 2 ? 0x7632u : 0x5410u;
        unsigned near = __byte_perm(tile.values[0][j / 2], tile.values[1][j / 2], pick);
        unsigned far = __byte_perm(tile.values[2][j / 2], tile.values[3][j / 2], pick);
        unsigned left[4] = {evens(near), odds(near), evens(far), odds(far)};
        product(sums.mixed[j], left, weights[0], weights[1]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
decode8(const bf16* query, const e4m3* keys, const e4m3* values, const float* key_scales,
        const float* value_scales, const float* rates, const int* query_starts,
        const int* key_starts, const int* used, float* mixed, float* sums_out, int num_heads,
        int kv_heads, double scale) {
    __shared__ __align__(16) unsigned short turns[2][2 * CHUNK * PITCH];
    int token = query_starts[blockIdx.y], share = share_of(used[blockIdx.y], gridDim.x);
    int begin = blockIdx.x * share, end = min(used[blockIdx.y], begin + share);
    if (query_starts[blockIdx.y + 1] == token || begin >= end) return;
    int lane = threadIdx.x & 31, head = blockIdx.z * (THREADS / 32) + threadIdx.x / 32;
    // A warp without a head helps with the rotations.
    bool works = head < kv_heads;
    int group = num_heads / kv_heads;
    Row row;
    row.kv_heads = kv_heads;
    row.end = works ? end : 0;
    long long first = (long long)key_starts[blockIdx.y] * kv_heads + head;
    row.keys = keys + first * DIM;
    row.values = values + first * DIM;
    row.key_scales = key_scales + first;
    row.value_scales = value_scales + first;
    unsigned own[2][2 * WORDS];
    #pragma unroll
    for (int h = 0; h < 2; ++h)
        #pragma unroll
        for (int w = 0; w < WORDS; ++w) {
            uint2 raw = make_uint2(0u, 0u);
            if (works && lane / 4 < group) {
                long long at = ((long long)token * num_heads + head * group + lane / 4) * DIM;
                raw = *(const uint2*)(query + at + h * HALF + lane % 4 * SPAN + 4 * w);
            }
            own[h][2 * w] = halves(wide((bf16)raw.x), wide((bf16)raw.y));
            own[h][2 * w + 1] = halves(wide((bf16)(raw.x >> 16)), wide((bf16)(raw.y >> 16)));
        }
    float rate = rates[threadIdx.x % HALF];
    Turn next;
    sincosf((float)(begin + (int)threadIdx.x / HALF) * rate, &next.s, &next.c);
    sincosf((float)(THREADS / HALF) * rate, &next.step_s, &next.step_c);
    // log2(e), and 2^8 that the keys lack.
    float factor = (float)scale * 1.4426950408889634f * 256.f;
    Sums sums;
    clear(sums);
    Tile tile;
    load_keys(tile, row, begin, lane);
    load_values(tile, row, begin, lane);
    fill_turns(turns[0], next);
    int now = 0;
    for (int chunk = begin; chunk < end; chunk += CHUNK, now ^= 1) {
        // This chunk's rotations are there, and nobody reads those of the one before any more.
        __syncthreads();
        if (chunk + CHUNK < end) fill_turns(turns[now ^ 1], next);
        for (int position = chunk; position < min(chunk + CHUNK, row.end); position += TILE) {
            float scores[4] = {0.f, 0.f, 0.f, 0.f};
            unsigned weights[2];
            score(scores, tile, turns[now] + (position - chunk) * PITCH, own, lane);
            weigh(sums, scores, tile, position, end, factor, lane, weights);
            load_keys(tile, row, position + TILE, lane);
            mix(sums, tile, weights);
            load_values(tile, row, position + TILE, lane);
        }
    }
    #pragma unroll
    for (int q = 0; q < 2; ++q) {
        for (int d = 4; d < 32; d <<= 1)
            sums.total[q] += __shfl_xor_sync(ALL, sums.total[q], d);
        int in_group = lane % 4 * 2 + q;
        if (!works || in_group >= group) continue;
        long long at = ((long long)blockIdx.y * gridDim.x + blockIdx.x) * num_heads
            + head * group + in_group;
        float* to = mixed + at * DIM + lane / 4 * SPAN;
        #pragma unroll
        for (int j = 0; j < DIM / 16; ++j)
            *(float2*)(to + 2 * j) = make_float2(sums.mixed[j][q], sums.mixed[j][q + 2]);
        if (lane / 4 == 0) *(float2*)(sums_out + 2 * at) = make_float2(sums.peak[q], sums.total[q]);
    }
}
