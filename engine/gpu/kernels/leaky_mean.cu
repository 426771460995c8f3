// Leaky ReLU of the mean of three, behind zeros; channels last. WIDE: to float32.
#include "quads.cuh"
#if WIDE
typedef float4 Out;
__device__ __forceinline__ Out given(float4 v) { return v; }
#else
typedef Quad Out;
__device__ __forceinline__ Out given(float4 v) { return narrow(v); }
#endif

__device__ __forceinline__ float leaky(float v, float slope) { return v > 0.f ? v : v * slope; }
extern "C" __global__ void leaky_mean(const Quad* a, const Quad* b, const Quad* c, Out* out,
                                      int length, int lead, double slope) {
    int at = (int)(blockIdx.x * blockDim.x + threadIdx.x) - lead;
    if (at >= length) return;
    long long row = blockIdx.y, from = row * length + at;
    Out* to = out + row * (length + lead) + lead;
    if (at < 0) {
        to[at] = given(make_float4(0.f, 0.f, 0.f, 0.f));
        return;
    }
    float4 v = added(added(wide(a[from]), wide(b[from])), wide(c[from]));
    float s = (float)slope;
    to[at] = given(make_float4(leaky(v.x / 3.f, s), leaky(v.y / 3.f, s), leaky(v.z / 3.f, s),
                               leaky(v.w / 3.f, s)));
}
