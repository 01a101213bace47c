/*
 * gemm64_super: gemm64 for the formats with blocks of 256 weights: a step is one block of each row.
 * quant * scale is exact in F16 for Q4_K and Q5_K (at most 31 * 63), and rounded to 11 bits beyond
 * 2048 for Q6_K (at most 32 * 128). Each lane of a row unpacks a fourth of the scales and gives them
 * to the others as they are wanted.
 */
#include "kernels/cuda/gemm64.cuh"

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
    enum { ALIGN = ALIGNMENT, SUPER = 1, HAS_MIN = 1 };
    uint32_t scales; /* t and t + 4 of the row, F16 */
    uint32_t mins;

    __device__ __forceinline__ void prepare(const row_bytes_at &row, uint32_t lane)
    {
        uint32_t t = lane % 4;
        uint32_t a = *smem_at(row.at + 4 + t);
        uint32_t b = *smem_at(row.at + 8 + t);
        uint32_t c = *smem_at(row.at + 12 + t);

        scales = bits_of(small_integers((a & 63) | ((c & 15) | a >> 6 << 4) << 16, 0));
        mins = bits_of(small_integers((b & 63) | (c >> 4 | b >> 6 << 4) << 16, 0));
    }

    /* Groups 2 * slice and 2 * slice + 1 share their bytes: the even one has the low four bits. */
    __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t slice, uint32_t half,
        uint32_t lane, uint32_t (&w)[2][2]) const
    {
        uint32_t group = slice * 2 + half;
        uint32_t both = __shfl_sync(0xFFFFFFFFu, scales, (lane & ~3u) + group % 4);
        __half2 scale = as_half2(twice(both, slice >= 2));

#pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t word = smem_word<ALIGN>(row, lane % 4 * 4 + slice * 32, QUANTS_AT + s * 16);
            uint32_t q[2] = {byte_pair<0>(word, half * 4, 15), byte_pair<1>(word, half * 4, 15)};
            if (FIFTH) {
                uint32_t bits = smem_word<ALIGN>(row, lane % 4 * 4, 16 + s * 16) >> group;
                q[0] |= (bits & 0x00010001u) << 4;
                q[1] |= bits >> 4 & 0x00100010u;
            }
            w[s][0] = bits_of(__hmul2(small_integers(q[0], 0), scale));
            w[s][1] = bits_of(__hmul2(small_integers(q[1], 0), scale));
        }
    }

    __device__ __forceinline__ uint32_t minima(bool upper) const
    {
        return twice(mins, upper);
    }

    static __device__ __forceinline__ float2 d_of(const row_bytes_at &row)
    {
        return make_float2(half_bits(smem_u16(row.at)), -half_bits(smem_u16(row.at + 2)));
    }
};

/* Q6_K: d * scale * (q - 32), a scale of 8 bits for every 16 weights. */
struct weights_q6_k {
    enum : uint32_t { STEP_K = 256, STEP_BYTES = 210, ROW_SLOT = 240, STAGES = 2 };
    enum { ALIGN = 2, SUPER = 1, HAS_MIN = 0 };
    uint32_t scales[2]; /* 4t and 4t + 1, 4t + 2 and 4t + 3 of the row, F16 */

    __device__ __forceinline__ void prepare(const row_bytes_at &row, uint32_t lane)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t two = smem_u16(row.at + 192 + lane % 4 * 4 + i * 2) ^ 0x8080u;
            scales[i] = bits_of(small_integers(__byte_perm(two, 0, 0x4140), 128));
        }
    }

    __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t slice, uint32_t half,
        uint32_t lane, uint32_t (&w)[2][2]) const
    {
        uint32_t part = slice / 2; /* of 128 columns; half is the quarter's lowest bit */
        uint32_t quarter = slice % 2 * 2 + half;
        uint32_t two = __shfl_sync(0xFFFFFFFFu, scales[half], (lane & ~3u) + slice);

#pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t low = smem_word<ALIGN>(row, lane % 4 * 4 + part * 64, half * 32 + s * 16) >>
                           slice % 2 * 4;
            uint32_t high =
                smem_word<ALIGN>(row, lane % 4 * 4 + part * 32, 128 + s * 16) >> quarter * 2;
            uint32_t q[2] = {byte_pair<0>(low, 0, 15) | byte_pair<0>(high, 0, 3) << 4,
                byte_pair<1>(low, 0, 15) | byte_pair<1>(high, 0, 3) << 4};
            __half2 scale = as_half2(twice(two, s == 1));
            w[s][0] = bits_of(__hmul2(small_integers(q[0], 32), scale));
            w[s][1] = bits_of(__hmul2(small_integers(q[1], 32), scale));
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
