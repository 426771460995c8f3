#include "product.cuh"
struct Sums {
    float peak[2], total[2];  // of two queries; the total is this lane's
    float mixed[DIM / 16][4];  // two dimensions of two queries each
};
__device__ __forceinline__ void clear(Sums& sums) {
    #pragma unroll
    for (int j = 0; j < DIM / 16; ++j)
        sums.mixed[j][0] = sums.mixed[j][1] = sums.mixed[j][2] = sums.mixed[j][3] = 0.f;
    sums.peak[0] = sums.peak[1] = __int_as_float(0xff800000);
    sums.total[0] = sums.total[1] = 0.f;
}
// What is there already, by the factors that higher peaks make of its weights.
__device__ __forceinline__ void rescale(Sums& sums, const float* factor) {
    if (__any_sync(0xffffffffu, factor[0] != 1.f || factor[1] != 1.f)) {
        #pragma unroll
        for (int j = 0; j < DIM / 16; ++j) {
            sums.mixed[j][0] *= factor[0]; sums.mixed[j][1] *= factor[1];
            sums.mixed[j][2] *= factor[0]; sums.mixed[j][3] *= factor[1];
        }
    }
}
