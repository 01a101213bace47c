/*
 * gemm64_float: gemm64 for F16 weights as they are and BF16 ones rounded to F16, as for more rows
 * (pack.cu).
 */
#include "kernels/cuda/gemm64.cuh"

template <lam_dtype DTYPE, int ALIGNMENT> struct weights_float {
    enum : uint32_t { STEP_K = 64, STEP_BYTES = 128, ROW_SLOT = 160, STAGES = 3 };
    enum { ALIGN = ALIGNMENT, SUPER = 0, HAS_MIN = 0, ARRANGED = 0 };
    using view = row_bytes_at;

    __device__ __forceinline__ void fetch(
        const row_bytes_at &row, uint32_t, uint32_t half, uint32_t lane, uint32_t (&w)[2][2]) const
    {
#pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t at = half * 64 + s * 32;
            uint32_t x, y; /* columns 4t and 4t + 1, 4t + 2 and 4t + 3 */
            if (ALIGN == 16) {
                uint2 two = *reinterpret_cast<const uint2 *>(smem_at(row.at + lane % 4 * 8 + at));
                x = two.x;
                y = two.y;
            } else {
                x = smem_word<ALIGN>(row, lane % 4 * 8, at);
                y = smem_word<ALIGN>(row, lane % 4 * 8, at + 4);
            }
            if (DTYPE == LAM_F16) {
                w[s][0] = __byte_perm(x, y, 0x5410);
                w[s][1] = __byte_perm(x, y, 0x7632);
            } else {
                w[s][0] =
                    bits_of(__floats2half2_rn(__uint_as_float(x << 16), __uint_as_float(y << 16)));
                w[s][1] = bits_of(__floats2half2_rn(
                    __uint_as_float(x & 0xFFFF0000u), __uint_as_float(y & 0xFFFF0000u)));
            }
        }
    }
};

int lam_cuda_gemm64_float(
    CUstream_st *stream, const lam_cuda_chip *chip, lam_dtype dtype, const gemm64_args &args)
{
    bool aligned = gemm64_aligned(args, 16);

    if (dtype == LAM_F16)
        return aligned ? gemm64_of_format<weights_float<LAM_F16, 16>>(stream, chip, args)
                       : gemm64_of_format<weights_float<LAM_F16, 2>>(stream, chip, args);
    return aligned ? gemm64_of_format<weights_float<LAM_BF16, 16>>(stream, chip, args)
                   : gemm64_of_format<weights_float<LAM_BF16, 2>>(stream, chip, args);
}

int lam_cuda_prepare_gemm64_float(void)
{
    int error = prepare_gemm64<weights_float<LAM_F16, 16>>();

    error = error != 0 ? error : prepare_gemm64<weights_float<LAM_F16, 2>>();
    error = error != 0 ? error : prepare_gemm64<weights_float<LAM_BF16, 16>>();
    return error != 0 ? error : prepare_gemm64<weights_float<LAM_BF16, 2>>();
}
