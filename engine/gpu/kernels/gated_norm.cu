// A gated sum and its layer norm, or that as the columns of a causal convolution; a warp has a frame.
#include "half.cuh"
#include "warp.cuh"

__device__ __forceinline__ float mish(float x) {
    if (x > 20.f) return x;
    float e = __expf(x), n = e * (e + 2.f);
    return x * n / (n + 2.f);
}
// A warp has a frame, a lane every 32nd group of eight channels.
extern "C" __global__ void gated_norm(const f16* x, const f16* delta, const f16* gate,
                                      const f16* shift, const f16* scale, const f16* old,
                                      const long long* last, f16* sum, f16* out, f16* tail,
                                      int frames, int width, int size, int is_mish, double eps) {
    int frame = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (frame >= frames) return;
    long long base = (long long)frame * size;
    float kept[4][8], total = 0.f;
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
        int at = (lane + 32 * v) * 8;
        if (at < size) {
            load(x + base + at, kept[v]);
            if (delta) {
                float more[8], factor[8];
                load(delta + base + at, more);
                load(gate + at, factor);
                #pragma unroll
                for (int i = 0; i < 8; ++i) kept[v][i] = rounded(kept[v][i] + more[i] * factor[i]);
                store(kept[v], sum + base + at);
            }
            #pragma unroll
            for (int i = 0; i < 8; ++i) total += kept[v][i];
        }
    }
    float mean = warp_sum(total) / size, square = 0.f;
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
        if ((lane + 32 * v) * 8 < size) {
            #pragma unroll
            for (int i = 0; i < 8; ++i) {
                float d = kept[v][i] - mean;
                square += d * d;
            }
        }
    }
    float rate = rsqrtf(warp_sum(square) / size + (float)eps);
    // Columns: a frame is the last third of its own row, and parts of the two rows behind.
    int row = frame / width, t = frame - row * width;
    int step = old ? 3 * size : size;
    f16* own = out + (long long)frame * step;
    long long end = old ? last[row * 2] - (long long)row * (width + 2) : 0;
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
        int at = (lane + 32 * v) * 8;
        if (at >= size) continue;
        float factor[8], offset[8];
        load(scale + at, factor);
        load(shift + at, offset);
        #pragma unroll
        for (int i = 0; i < 8; ++i) {
            float y = (kept[v][i] - mean) * rate * factor[i] + offset[i];
            kept[v][i] = is_mish ? mish(rounded(y)) : y;
        }
        if (!old) {
            store(kept[v], own + at);
            continue;
        }
        store(kept[v], own + 2 * size + at);
        if (t + 1 < width) store(kept[v], own + step + size + at);
        if (t + 2 < width) store(kept[v], own + 2 * step + at);
        f16* kept_tail = tail + (long long)row * 2 * size + at;
        if (t + 2 == end) store(kept[v], kept_tail);
        if (t + 1 == end) store(kept[v], kept_tail + size);
        if (t == 0) {
            const f16* before = old + (long long)row * 2 * size + at;
            const uint4 first = *(const uint4*)before, second = *(const uint4*)(before + size);
            *(uint4*)(own + at) = first;
            *(uint4*)(own + size + at) = second;
            if (width > 1) *(uint4*)(own + step + at) = second;
            if (end == 0) *(uint4*)kept_tail = first;
            if (end == 0) *(uint4*)(kept_tail + size) = second;
            if (end == 1) *(uint4*)kept_tail = second;
        }
    }
}
