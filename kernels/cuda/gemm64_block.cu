/*
 * gemm64_block: gemm64 for the formats with blocks of 32 weights: a step is four blocks of each row.
 * A weight is rounded to F16 once, as for more rows (pack.cu).
 */
#include "kernels/cuda/gemm64_lanes.cuh"

template <lam_dtype DTYPE> struct weights_block {
    using pairs = pairs_block<DTYPE>;
    static const bool FIFTH = pairs::FIFTH;
    enum : uint32_t {
        HEAD = pairs::HEAD,
        BYTES = pairs::BYTES,
        STEP_K = 128,
        STEP_BYTES = 4 * BYTES,
        ROW_SLOT = FIFTH && pairs::MIN ? 144 : 112, /* room for a skew */
        STAGES = 2,
    };
    enum { ALIGN = 2, SUPER = 0, HAS_MIN = 0, ARRANGED = 0 };
    using view = row_bytes_at;
    static_assert(ROW_SLOT >= STEP_BYTES + 15, "a skew fits");

    /* Of 16 bytes, the low four bits are the first 16 columns of the block. */
    __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t slice, uint32_t half,
        uint32_t lane, uint32_t (&w)[2][2]) const
    {
        uint32_t block = slice * 2 * BYTES; /* a multiple of 4 */
        uint32_t t = lane % 4;
        __half2 d = two_of(row.at + block + half * BYTES);
        __half2 m = pairs::MIN ? two_of(row.at + block + half * BYTES + 2) : d;
        uint32_t word = smem_word<ALIGN>(row, block + 4 * t, half * BYTES + HEAD + (FIFTH ? 4 : 0));
        uint32_t fifths = FIFTH ? smem_word<ALIGN>(row, block, half * BYTES + HEAD) >> 4 * t : 0;

#pragma unroll
        for (uint32_t s = 0; s < 2; s++)
            pairs::unpack(word, s, fifths >> 16 * s, d, m, w[s]);
    }
};

struct weights_q8_0 {
    enum : uint32_t {
        BYTES = 34,
        STEP_K = 128,
        STEP_BYTES = 4 * BYTES,
        ROW_SLOT = 176,
        STAGES = 2
    };
    enum { ALIGN = 2, SUPER = 0, HAS_MIN = 0, ARRANGED = 0 };
    using view = row_bytes_at;

    __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t slice, uint32_t half,
        uint32_t lane, uint32_t (&w)[2][2]) const
    {
        uint32_t block = slice * 2 * BYTES; /* a multiple of 4 */
        __half2 d = two_of(row.at + block + half * BYTES);

#pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t word = smem_word<ALIGN>(row, block + lane % 4 * 4, half * BYTES + 2 + s * 16);
            pairs_q8_0(word, d, w[s]);
        }
    }
};

int lam_cuda_gemm64_block(
    CUstream_st *stream, const lam_cuda_chip *chip, lam_dtype dtype, const gemm64_args &args)
{
    switch (dtype) {
    case LAM_Q4_0:
        return gemm64_of_format<weights_block<LAM_Q4_0>>(stream, chip, args);
    case LAM_Q4_1:
        return gemm64_of_format<weights_block<LAM_Q4_1>>(stream, chip, args);
    case LAM_Q5_0:
        return gemm64_of_format<weights_block<LAM_Q5_0>>(stream, chip, args);
    case LAM_Q5_1:
        return gemm64_of_format<weights_block<LAM_Q5_1>>(stream, chip, args);
    default:
        return gemm64_of_format<weights_q8_0>(stream, chip, args);
    }
}

int lam_cuda_prepare_gemm64_block(void)
{
    int error = prepare_gemm64<weights_block<LAM_Q4_0>>();

    error = error != 0 ? error : prepare_gemm64<weights_block<LAM_Q4_1>>();
    error = error != 0 ? error : prepare_gemm64<weights_block<LAM_Q5_0>>();
    error = error != 0 ? error : prepare_gemm64<weights_block<LAM_Q5_1>>();
    return error != 0 ? error : prepare_gemm64<weights_q8_0>();
}
