// Weights in 4 bits, laid out by int4.py: of 16 outputs and 64 inputs a lane has 16 bytes, for outputs
// lane / 4 and 8 more and 16 inputs from 16 (lane % 4) on.
// A word has eight inputs of an output; pair p of them lies in bits 4 p and 16 + 4 p.
#include "bf16.cuh"
#define INPUTS 64

__device__ __forceinline__ unsigned fused(unsigned a, unsigned b, unsigned c) {
    unsigned out;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
}

// Of a group of an output: its scale, and what takes a number's zero from it, both twice.
struct Scale { unsigned factor, offset; };
__device__ __forceinline__ Scale scale_of(unsigned group) {
    Scale out;
    out.factor = __byte_perm(group, group, 0x1010u);
    out.offset = __byte_perm(group, group, 0x3232u);
    return out;
}

// Pair p of a word: 128 + number is made by its bits, less 128 + zero it is exact, the product is
// rounded once.
__device__ __forceinline__ unsigned weights(unsigned word, int p, const Scale& scale) {
    unsigned lifted = ((word >> (4 * p)) & 0x000f000fu) | 0x43004300u;
    return fused(fused(lifted, 0x3f803f80u, scale.offset), scale.factor, 0x80008000u);
}
