// Products of up to 8 EIGHTS rows with a weight in 4 bits: the weight is read once, its numbers are
// widened in registers, and what they give is scaled. A block computes TILES times 16 outputs; its WARPS take the inputs by turns, AHEAD pieces
// of them at once, and add up what they found.
#include "int4.cuh"
#include "product.cuh"

extern "C" __global__ void __launch_bounds__(32 * WARPS)
int4_rows(const bf16* x, const uint4* cells, const unsigned* groups, bf16* out, int rows,
          int outputs, int inputs, int per_group) {
    __shared__ float found[WARPS][TILES * 128];
    int lane = threadIdx.x & 31, warp = threadIdx.x / 32, tile = blockIdx.x * TILES;
    int pieces = inputs / INPUTS, num_groups = pieces / per_group;
    float sums[TILES][EIGHTS][4];
    #pragma unroll
    for (int i = 0; i < TILES; ++i)
        #pragma unroll
        for (int e = 0; e < EIGHTS; ++e)
            sums[i][e][0] = sums[i][e][1] = sums[i][e][2] = sums[i][e][3] = 0.f;

    for (int first = warp; first < pieces; first += WARPS * AHEAD) {
        uint4 words[AHEAD][TILES];
        unsigned scales[AHEAD][TILES][2];
        #pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            int piece = first + a * WARPS;
            if (piece >= pieces) continue;
            #pragma unroll
            for (int i = 0; i < TILES; ++i) {
                words[a][i] = __ldg(cells + ((long long)(tile + i) * pieces + piece) * 32 + lane);
                const unsigned* of =
                    groups + ((long long)(tile + i) * num_groups + piece / per_group) * 16 + lane / 4;
                scales[a][i][0] = __ldg(of);
                scales[a][i][1] = __ldg(of + 8);
            }
        }
        #pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            int piece = first + a * WARPS;
            if (piece >= pieces) continue;
            uint4 given[EIGHTS][2];
            #pragma unroll
            for (int e = 0; e < EIGHTS; ++e) {
                int row = 8 * e + lane / 4;
                const uint4* from = (const uint4*)(x + (long long)row * inputs + piece * INPUTS
                                                   + lane % 4 * 16);
                given[e][0] = row < rows ? __ldg(from) : make_uint4(0u, 0u, 0u, 0u);
                given[e][1] = row < rows ? __ldg(from + 1) : make_uint4(0u, 0u, 0u, 0u);
            }
            #pragma unroll
            for (int i = 0; i < TILES; ++i) {
                unsigned near = offset_of(scales[a][i][0]), far = offset_of(scales[a][i][1]);
                float part[EIGHTS][4];
                #pragma unroll
                for (int e = 0; e < EIGHTS; ++e)
                    part[e][0] = part[e][1] = part[e][2] = part[e][3] = 0.f;
                #pragma unroll
                for (int u = 0; u < 2; ++u) {
                    unsigned w = u ? words[a][i].y : words[a][i].x;
                    unsigned v = u ? words[a][i].w : words[a][i].z;
                    #pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        const unsigned left[4] = {
                            centred(w, 2 * m, near), centred(v, 2 * m, far),
                            centred(w, 2 * m + 1, near), centred(v, 2 * m + 1, far)};
                        #pragma unroll
                        for (int e = 0; e < EIGHTS; ++e)
                            product(part[e], left, m ? given[e][u].z : given[e][u].x,
                                    m ? given[e][u].w : given[e][u].y);
                    }
                }
                float own = scale_of(scales[a][i][0]), other = scale_of(scales[a][i][1]);
                #pragma unroll
                for (int e = 0; e < EIGHTS; ++e) {
                    sums[i][e][0] += own * part[e][0];
                    sums[i][e][1] += own * part[e][1];
                    sums[i][e][2] += other * part[e][2];
                    sums[i][e][3] += other * part[e][3];
                }
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
