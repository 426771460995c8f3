// Rotate stored keys on by some positions; a warp has a head.
#include "bf16.cuh"
#include "warp.cuh"

extern "C" __global__ void rotate_keys(const bf16* x, const float* rates, bf16* out, int shift,
                                       int heads, int layer_stride, int head_dim) {
    int head = blockIdx.x * blockDim.y + threadIdx.y, half = head_dim / 2;
    if (head >= heads) return;
    const bf16* from = x + (long long)blockIdx.y * layer_stride + (long long)head * head_dim;
    bf16* to = out + ((long long)blockIdx.y * heads + head) * head_dim;
    for (int i = threadIdx.x; i < half; i += 32) {
        float a = wide(from[i]), b = wide(from[i + half]), s, c;
        sincosf((float)shift * rates[i], &s, &c);
        to[i] = narrow(a * c - b * s);
        to[i + half] = narrow(b * c + a * s);
    }
}
