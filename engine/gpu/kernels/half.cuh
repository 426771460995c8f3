// float16 as 16 bits, by the instructions that convert it.
typedef unsigned short f16;
__device__ __forceinline__ float wide(f16 x) {
    float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y;
}
__device__ __forceinline__ f16 narrow(float x) {
    f16 y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y;
}
__device__ __forceinline__ float rounded(float x) { return wide(narrow(x)); }
__device__ __forceinline__ void load(const f16* from, float* to) {
    const uint4 raw = *(const uint4*)from;
    const f16* parts = (const f16*)&raw;
    #pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = wide(parts[i]);
}
__device__ __forceinline__ void store(const float* from, f16* to) {
    uint4 raw;
    f16* parts = (f16*)&raw;
    #pragma unroll
    for (int i = 0; i < 8; ++i) parts[i] = narrow(from[i]);
    *(uint4*)to = raw;
}
