// 8-bit floats (arXiv 2209.05433).
typedef unsigned char e4m3;
// Rounds to even as torch does, for |x| up to 448 and a rounding error more.
__device__ __forceinline__ e4m3 small(float x) {
    unsigned bits = __float_as_uint(x), sign = (bits >> 24) & 0x80u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (e4m3)(sign | 0x7fu);
    if (bits > 0x43e00000u) bits = 0x43e00000u;
    if (bits < 0x3c800000u)
        // Below 2^-6 the step is 2^-9, which is that of float32 between 2^14 and 2^15.
        bits = __float_as_uint(__uint_as_float(bits) + 16384.f) - 0x46800000u;
    else
        bits = (bits + 0x7ffffu + ((bits >> 20) & 1u) - (120u << 23)) >> 20;
    return (e4m3)(sign | bits);
}
// Of the lowest byte; the NaN is not told from 480: its scale is NaN as well.
__device__ __forceinline__ float number(unsigned byte) {
    return __uint_as_float(((byte & 0x80u) << 24) | ((byte & 0x7fu) << 20))
        * 1.329227995784916e36f;
}
