// Four values at a time, of float32, or of float16 where HALF is 1.
__device__ __forceinline__ float4 added(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
#if HALF
typedef uint2 Quad;
__device__ __forceinline__ float2 halves(unsigned pair) {
    float2 v;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
        : "=f"(v.x), "=f"(v.y) : "r"(pair));
    return v;
}
// What float16 has no room for is as large as it can be.
__device__ __forceinline__ unsigned pair(float x, float y) {
    unsigned out;
    x = x > 65504.f ? 65504.f : x < -65504.f ? -65504.f : x;
    y = y > 65504.f ? 65504.f : y < -65504.f ? -65504.f : y;
    asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(out) : "f"(x), "f"(y));
    return out;
}
__device__ __forceinline__ float4 wide(Quad q) {
    float2 a = halves(q.x), b = halves(q.y);
    return make_float4(a.x, a.y, b.x, b.y);
}
__device__ __forceinline__ Quad narrow(float4 v) {
    return make_uint2(pair(v.x, v.y), pair(v.z, v.w));
}
#else
typedef float4 Quad;
__device__ __forceinline__ float4 wide(Quad q) { return q; }
__device__ __forceinline__ Quad narrow(float4 v) { return v; }
#endif
