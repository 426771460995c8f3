// A weight in 4 bits as bfloat16 [outputs, inputs]: a warp takes 16 outputs of DEEP times 64 inputs.
#include "int4.cuh"

__device__ __forceinline__ unsigned scaled(unsigned word, int p, unsigned group) {
    return fused(centred(word, p, offset_of(group)), __byte_perm(group, group, 0x1010u), 0x80008000u);
}

// Neighbours exchange halves, so that two lanes write 32 bytes in one piece.
__device__ __forceinline__ void store(uint4* to, const unsigned* first, const unsigned* second,
                                      int lane) {
    bool is_odd = lane & 1;
    unsigned got[4];
    #pragma unroll
    for (int i = 0; i < 4; ++i)
        got[i] = __shfl_xor_sync(0xffffffffu, is_odd ? first[i] : second[i], 1);
    uint4 a = is_odd ? make_uint4(got[0], got[1], got[2], got[3])
                     : make_uint4(first[0], first[1], first[2], first[3]);
    uint4 b = is_odd ? make_uint4(second[0], second[1], second[2], second[3])
                     : make_uint4(got[0], got[1], got[2], got[3]);
    // Of an even lane: its own first half, and its neighbour's; of an odd one the second halves.
    to[is_odd ? -1 : 0] = a;
    to[is_odd ? 1 : 2] = b;
}

extern "C" __global__ void int4_widen(const uint4* cells, const unsigned* groups, bf16* out, int tiles,
                                      int pieces, int per_group) {
    int lane = threadIdx.x & 31;
    long long first = ((long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * DEEP;
    long long total = (long long)tiles * pieces;
    uint4 words[DEEP];
    #pragma unroll
    for (int d = 0; d < DEEP; ++d)
        if (first + d < total) words[d] = __ldg(cells + (first + d) * 32 + lane);
    #pragma unroll
    for (int d = 0; d < DEEP; ++d) {
        if (first + d >= total) return;
        int tile = (first + d) / pieces, piece = first + d - (long long)tile * pieces;
        const unsigned* of =
            groups + ((long long)tile * (pieces / per_group) + piece / per_group) * 16 + lane / 4;
        #pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned group = __ldg(of + 8 * half);
            unsigned low = half ? words[d].z : words[d].x, high = half ? words[d].w : words[d].y;
            unsigned left[4], right[4];
            #pragma unroll
            for (int p = 0; p < 4; ++p) {
                left[p] = scaled(low, p, group);
                right[p] = scaled(high, p, group);
            }
            long long row = (long long)tile * 16 + lane / 4 + 8 * half;
            store((uint4*)(out + row * pieces * INPUTS + piece * INPUTS + lane % 4 * 16), left, right,
                  lane);
        }
    }
}
