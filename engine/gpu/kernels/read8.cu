// What rows of a cache in 8 bits see, rotated, in bfloat16. POSITIONS: that a block takes at a time.
#include "bf16.cuh"
#include "warp.cuh"
#include "e4m3.cuh"

__device__ __forceinline__ unsigned both(float low, float high) {
    return (unsigned)narrow(low) | ((unsigned)narrow(high) << 16);
}
extern "C" __global__ void read8(const e4m3* keys, const e4m3* values, const float* key_scales,
                                 const float* value_scales, const float* rates,
                                 const int* key_starts, const int* used, bf16* keys_out,
                                 bf16* values_out, int kv_heads, int head_dim) {
    int half = head_dim / 2, at = threadIdx.x % (head_dim / 8) * 4;
    int own = threadIdx.x / (head_dim / 8), count = used[blockIdx.y];
    for (int position = blockIdx.x * POSITIONS + own; position < count;
         position += gridDim.x * POSITIONS) {
        float c[4], s[4];
        for (int i = 0; i < 4; ++i) sincosf((float)position * rates[at + i], &s[i], &c[i]);
        long long place = ((long long)key_starts[blockIdx.y] + position) * kv_heads;
        #pragma unroll 2
        for (int head = 0; head < kv_heads; ++head, ++place) {
            long long first = place * head_dim + at;
            unsigned low = *(const unsigned*)(keys + first);
            unsigned high = *(const unsigned*)(keys + first + half);
            float scale = key_scales[place], x[4], y[4];
            for (int i = 0; i < 4; ++i) {
                float a = number(low >> (8 * i)) * scale, b = number(high >> (8 * i)) * scale;
                x[i] = a * c[i] - b * s[i];
                y[i] = b * c[i] + a * s[i];
            }
            *(uint2*)(keys_out + first) = make_uint2(both(x[0], x[1]), both(x[2], x[3]));
            *(uint2*)(keys_out + first + half) = make_uint2(both(y[0], y[1]), both(y[2], y[3]));
            low = *(const unsigned*)(values + first);
            high = *(const unsigned*)(values + first + half);
            scale = value_scales[place];
            for (int i = 0; i < 4; ++i) {
                x[i] = number(low >> (8 * i)) * scale;
                y[i] = number(high >> (8 * i)) * scale;
            }
            *(uint2*)(values_out + first) = make_uint2(both(x[0], x[1]), both(x[2], x[3]));
            *(uint2*)(values_out + first + half) = make_uint2(both(y[0], y[1]), both(y[2], y[3]));
        }
    }
}
