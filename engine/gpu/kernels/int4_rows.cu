// Products of up to 8 EIGHTS rows with a weight in 4 bits: the weight is read once, its numbers are
// widened in registers, and what they give is scaled. A block computes TILES times 16 outputs; its
// WARPS take the inputs by turns, AHEAD pieces of them at once, and add up what they found.
#include "int4.cuh"
#include "product.cuh"

// What a lane has of AHEAD pieces; nothing beyond the last one.
struct Pieces {
    uint4 words[AHEAD][TILES];
    unsigned groups[AHEAD][TILES][2];
    uint4 given[AHEAD][EIGHTS][2];
};

__device__ __forceinline__ void load(Pieces& own, const bf16* x, const uint4* cells,
                                     const unsigned* groups, int first, int tile, int pieces,
                                     int per_group, int rows, int lane) {
    const uint4 nothing = make_uint4(0u, 0u, 0u, 0u);
    #pragma unroll
    for (int a = 0; a < AHEAD; ++a) {
        int piece = first + a * WARPS;
        bool is_there = piece < pieces;
        #pragma unroll
        for (int i = 0; i < TILES; ++i) {
            long long at = (long long)(tile + i) * pieces + piece;
            own.words[a][i] = is_there ? __ldg(cells + at * 32 + lane) : nothing;
        }
        #pragma unroll
        for (int e = 0; e < EIGHTS; ++e) {
            int row = 8 * e + lane / 4;
            const uint4* from = (const uint4*)(x + ((long long)row * pieces + piece) * INPUTS
                                               + lane % 4 * 16);
            bool is_given = is_there && row < rows;
            own.given[a][e][0] = is_given ? __ldg(from) : nothing;
            own.given[a][e][1] = is_given ? __ldg(from + 1) : nothing;
        }
        #pragma unroll
        for (int i = 0; i < TILES; ++i) {
            long long at = (long long)(tile + i) * (pieces / per_group) + piece / per_group;
            own.groups[a][i][0] = is_there ? __ldg(groups + at * 16 + lane / 4) : 0u;
            own.groups[a][i][1] = is_there ? __ldg(groups + at * 16 + lane / 4 + 8) : 0u;
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
int4_rows(const bf16* x, const uint4* cells, const unsigned* groups, bf16* out, int rows,
          int outputs, int inputs, int per_group) {
    __shared__ float found[WARPS][TILES * 128];
    int lane = threadIdx.x & 31, warp = threadIdx.x / 32, tile = blockIdx.x * TILES;
    int pieces = inputs / INPUTS;
    float sums[TILES][EIGHTS][4];
    #pragma unroll
    for (int i = 0; i < TILES; ++i)
        #pragma unroll
        for (int e = 0; e < EIGHTS; ++e)
            sums[i][e][0] = sums[i][e][1] = sums[i][e][2] = sums[i][e][3] = 0.f;

    for (int first = warp; first < pieces; first += WARPS * AHEAD) {
        Pieces own;
        load(own, x, cells, groups, first, tile, pieces, per_group, rows, lane);
        float part[AHEAD][TILES][EIGHTS][4];
        #pragma unroll
        for (int a = 0; a < AHEAD; ++a)
            #pragma unroll
            for (int i = 0; i < TILES; ++i)
                #pragma unroll
                for (int e = 0; e < EIGHTS; ++e)
                    part[a][i][e][0] = part[a][i][e][1] = part[a][i][e][2] = part[a][i][e][3] = 0.f;
        // Products that follow each other do not wait for each other's sums.
        #pragma unroll
        for (int q = 0; q < 4; ++q)
            #pragma unroll
            for (int a = 0; a < AHEAD; ++a)
                #pragma unroll
                for (int i = 0; i < TILES; ++i) {
                    const uint4& cell = own.words[a][i];
                    unsigned w = q / 2 ? cell.y : cell.x, v = q / 2 ? cell.w : cell.z;
                    unsigned near = offset_of(own.groups[a][i][0]);
                    unsigned far = offset_of(own.groups[a][i][1]);
                    int p = q % 2 * 2;
                    const unsigned left[4] = {centred(w, p, near), centred(v, p, far),
                                              centred(w, p + 1, near), centred(v, p + 1, far)};
                    #pragma unroll
                    for (int e = 0; e < EIGHTS; ++e) {
                        const uint4& right = own.given[a][e][q / 2];
                        product(part[a][i][e], left, p ? right.z : right.x, p ? right.w : right.y);
                    }
                }
        #pragma unroll
        for (int a = 0; a < AHEAD; ++a)
            #pragma unroll
            for (int i = 0; i < TILES; ++i) {
                float near = scale_of(own.groups[a][i][0]), far = scale_of(own.groups[a][i][1]);
                #pragma unroll
                for (int e = 0; e < EIGHTS; ++e) {
                    sums[i][e][0] += near * part[a][i][e][0];
                    sums[i][e][1] += near * part[a][i][e][1];
                    sums[i][e][2] += far * part[a][i][e][2];
                    sums[i][e][3] += far * part[a][i][e][3];
                }
            }
    }
    #pragma unroll
    for (int e = 0; e < EIGHTS; ++e) {
        if (e) __syncthreads();
        #pragma unroll
        for (int i = 0; i < TILES; ++i)
            *(float4*)&found[warp][i * 128 + lane * 4] =
                make_float4(sums[i][e][0], sums[i][e][1], sums[i][e][2], sums[i][e][3]);
        __syncthreads();
        for (int at = threadIdx.x; at < TILES * 128; at += 32 * WARPS) {
            float total = 0.f;
            #pragma unroll
            for (int w = 0; w < WARPS; ++w) total += found[w][at];
            int owner = at % 128 / 4, part = at % 4;
            int row = 8 * e + owner % 4 * 2 + part % 2;
            int output = (tile + at / 128) * 16 + owner / 4 + part / 2 * 8;
            if (row < rows) out[(long long)row * outputs + output] = narrow(total);
        }
    }
}
