// Layer-norm the heads of queries and keys, store keys and values; eight values a thread.
#include "half.cuh"

// A head of a frame has dim / 8 lanes; queries, keys and values of a frame lie behind each other.
extern "C" __global__ void store_heads(const f16* packed, const f16* weights, const f16* biases,
                                       const long long* write, f16* query, f16* keys,
                                       f16* values, int frames, int heads, int dim, double eps) {
    int lanes = dim / 8, total = frames * 3 * heads;
    int id = blockIdx.x * blockDim.x + threadIdx.x, item = id / lanes, part = id % lanes;
    bool is_there = item < total;
    if (!is_there) item = total - 1;
    int frame = item / (3 * heads), head = item - frame * 3 * heads, kind = head / heads;
    head -= kind * heads;
    float kept[8], sum = 0.f, square = 0.f;
    load(packed + (long long)item * dim + part * 8, kept);
    #pragma unroll
    for (int i = 0; i < 8; ++i) sum += kept[i];
    for (int d = lanes / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    float mean = sum / dim;
    #pragma unroll
    for (int i = 0; i < 8; ++i) square += (kept[i] - mean) * (kept[i] - mean);
    for (int d = lanes / 2; d > 0; d >>= 1) square += __shfl_xor_sync(0xffffffffu, square, d);
    float rate = rsqrtf(square / dim + (float)eps);
    if (!is_there) return;
    if (kind < 2) {
        float factor[8], offset[8];
        load(weights + kind * dim + part * 8, factor);
        load(biases + kind * dim + part * 8, offset);
        #pragma unroll
        for (int i = 0; i < 8; ++i)
            kept[i] = offset[i] + rounded((kept[i] - mean) * rate) * factor[i];
    }
    f16* to = kind == 0 ? query : kind == 1 ? keys : values;
    long long place = kind == 0 ? frame : write[frame];
    store(kept, to + (place * heads + head) * dim + part * 8);
}
