// bfloat16 as 16 bits: widened exactly, narrowed to the nearest even value.
typedef unsigned short bf16;
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float(((unsigned)x) << 16); }
__device__ __forceinline__ bf16 narrow(float x) {
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bf16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
__device__ __forceinline__ float rounded(float x) { return wide(narrow(x)); }
