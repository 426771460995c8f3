// What the kernels of a step's attention share: a block takes part of a row's positions, and each of
// its warps one head of keys with all its queries, 16 positions at a time, on tensor cores.
// DIM: of a head. CHUNK: a block's share of positions is a multiple of it. LEAST_SHARE: positions that
// are worth a block of their own.
// Positions of each split of a row; the last one's may be fewer, and of some there are none.
__device__ __forceinline__ int share_of(int used, int splits) {
    int share = (used + splits - 1) / splits;
    share = (share + CHUNK - 1) / CHUNK * CHUNK;
    return share < LEAST_SHARE ? LEAST_SHARE : share;
}

__device__ __forceinline__ float power_of_2(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
// Of an 8 x 8 matrix whose row lane / 4 has its columns 2 (lane % 4) and the next in each lane.
__device__ __forceinline__ unsigned transposed(unsigned x) {
    unsigned out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(x));
    return out;
}
