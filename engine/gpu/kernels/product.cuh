// Products of tensor cores with sums in float32. KIND: "bf16" or "f16".
// Layout of the fragments: PTX ISA, mma.m16n8k16 and movmatrix.
// sum [16, 8] += left [16, 16] * right [16, 8]
__device__ __forceinline__ void product(float* sum, const unsigned* left, unsigned right0,
                                        unsigned right1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." KIND "." KIND ".f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}
