/*
 * gemm64_super: gemm64 for the formats with blocks of 256 weights: a step is one block of each row.
 * quant * scale is exact in F16 for Q4_K and Q5_K (at most 31 * 63), and rounded to 11 bits beyond
 * 2048 for Q6_K (at most 32 * 128). Each lane of a row unpacks a fourth of the scales and gives them
 * to the others as they are wanted.
 */
#include "kernels/cuda/gemm64_lanes.cuh"

/* Q4_K and Q5_K: d * scale * q - dmin * min, scales and mins of 6 bits. */
template <bool FIFTH, int ALIGNMENT> struct weights_k {
    enum : uint32_t {
        STEP_K = 256,
        STEP_BYTES = FIFTH ? 176 : 144,
        ROW_SLOT = ALIGNMENT == 16 ? STEP_BYTES
                   : FIFTH         ? 208
                                   : 176,
        STAGES = 2,
        QUANTS_AT = FIFTH ? 48 : 16,
    };
    enum { ALIGN = ALIGNMENT, SUPER = 1, HAS_MIN = 1, ARRANGED = 0 };
    using view = row_bytes_at;
    lane_scales_k scales;

    __device__ __forceinline__ void prepare(const row_bytes_at &row, uint32_t lane)
    {
        scales.unpack(row.at, lane);
    }

    /* Groups 2 * slice and 2 * slice + 1 share their bytes: the even one has the low four bits. */
    __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t slice, uint32_t half,
        uint32_t lane, uint32_t (&w)[2][2]) const
    {
        uint32_t group = slice * 2 + half;
        __half2 scale = scales.scale_of(group, lane);

#pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t word = smem_word<ALIGN>(row, lane % 4 * 4 + slice * 32, QUANTS_AT + s * 16);
            uint32_t fifths = FIFTH ? smem_word<ALIGN>(row, lane % 4 * 4, 16 + s * 16) : 0;
            pairs_k<FIFTH>(word, fifths, group, scale, w[s]);
        }
    }

    __device__ __forceinline__ uint32_t minima(bool upper) const
    {
        return scales.minima(upper);
    }

    static __device__ __forceinline__ float2 d_of(const row_bytes_at &row)
    {
        return make_float2(half_bits(smem_u16(row.at)), -half_bits(smem_u16(row.at + 2)));
    }
};

/* Q6_K: d * scale * (q - 32), a scale of 8 bits for every 16 weights. */
struct weights_q6_k {
    enum : uint32_t { STEP_K = 256, STEP_BYTES = 210, ROW_SLOT = 240, STAGES = 2 };
    enum { ALIGN = 2, SUPER = 1, HAS_MIN = 0, ARRANGED = 0 };
    using view = row_bytes_at;
    uint32_t scales[2]; /* 4t and 4t + 1, 4t + 2 and 4t + 3 of the row, F16 */

    __device__ __forceinline__ void prepare(const row_bytes_at &row, uint32_t lane)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
            scales[i] = scales_q6_k(smem_u16(row.at + 192 + lane % 4 * 4 + i * 2));
    }

    __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t slice, uint32_t half,
        uint32_t lane, uint32_t (&w)[2][2]) const
    {
        uint32_t part = slice / 2; /* of 128 columns; half is the quarter's lowest bit */
        uint32_t quarter = slice % 2 * 2 + half;
        uint32_t two = __shfl_sync(0xFFFFFFFFu, scales[half], (lane & ~3u) + slice);

#pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t low = smem_word<ALIGN>(row, lane % 4 * 4 + part * 64, half * 32 + s * 16);
            uint32_t high = smem_word<ALIGN>(row, lane % 4 * 4 + part * 32, 128 + s * 16);
            pairs_q6_k(low, high, quarter, as_half2(twice(two, s == 1)), w[s]);
        }
    }

    static __device__ __forceinline__ float2 d_of(const row_bytes_at &row)
    {
        return make_float2(half_bits(smem_u16(row.at + 208)), 0);
    }
};

int lam_cuda_gemm64_super(
    CUstream_st *stream, const lam_cuda_chip *chip, lam_dtype dtype, const gemm64_args &args)
{
    bool aligned = gemm64_aligned(args, 16);

    if (dtype == LAM_Q4_K)
        return aligned ? gemm64_of_format<weights_k<false, 16>>(stream, chip, args)
                       : gemm64_of_format<weights_k<false, 2>>(stream, chip, args);
    if (dtype == LAM_Q5_K)
        return aligned ? gemm64_of_format<weights_k<true, 16>>(stream, chip, args)
                       : gemm64_of_format<weights_k<true, 2>>(stream, chip, args);
    return gemm64_of_format<weights_q6_k>(stream, chip, args);
}

int lam_cuda_prepare_gemm64_super(void)
{
    int error = prepare_gemm64<weights_k<false, 16>>();

    error = error != 0 ? error : prepare_gemm64<weights_k<false, 2>>();
    error = error != 0 ? error : prepare_gemm64<weights_k<true, 16>>();
    error = error != 0 ? error : prepare_gemm64<weights_k<true, 2>>();
    return error != 0 ? error : prepare_gemm64<weights_q6_k>();
}
