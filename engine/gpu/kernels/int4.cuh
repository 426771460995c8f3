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

// Of a group of an output: its scale, and twice what takes a number's zero from it.
__device__ __forceinline__ float scale_of(unsigned group) { return __uint_as_float(group << 16); }
__device__ __forceinline__ unsigned offset_of(unsigned group) {
    return __byte_perm(group, group, 0x3232u);
}

// Numbers less their zero, pair p of a word: 128 + number is made by its bits, the rest is exact.
__device__ __forceinline__ unsigned centred(unsigned word, int p, unsigned offset) {
    return fused(((word >> (4 * p)) & 0x000f000fu) | 0x43004300u, 0x3f803f80u, offset);
}
