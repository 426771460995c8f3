// A weight in 4 bits as bfloat16 [outputs, inputs]: a warp takes 16 outputs of 64 inputs.
#include "int4.cuh"

extern "C" __global__ void int4_widen(const uint4* cells, const unsigned* groups, bf16* out, int tiles,
                                      int pieces, int per_group) {
    int lane = threadIdx.x & 31;
    long long at = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (at >= (long long)tiles * pieces) return;
    int tile = at / pieces, piece = at - (long long)tile * pieces;
    const uint4 words = __ldg(cells + at * 32 + lane);
    const unsigned* of =
        groups + ((long long)tile * (pieces / per_group) + piece / per_group) * 16 + lane / 4;
    #pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Scale scale = scale_of(__ldg(of + 8 * half));
        unsigned low = half ? words.z : words.x, high = half ? words.w : words.y;
        uint4* to = (uint4*)(out + ((long long)tile * 16 + lane / 4 + 8 * half) * pieces * INPUTS
                             + piece * INPUTS + lane % 4 * 16);
        to[0] = make_uint4(weights(low, 0, scale), weights(low, 1, scale), weights(low, 2, scale),
                           weights(low, 3, scale));
        to[1] = make_uint4(weights(high, 0, scale), weights(high, 1, scale), weights(high, 2, scale),
                           weights(high, 3, scale));
    }
}
