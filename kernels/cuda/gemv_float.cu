/* gemv_float: gemv for F32, F16 and BF16. A lane reads 16 bytes of each row in a step. */
#include "kernels/cuda/gemv.cuh"

/* Sixteen-bit weights: 8 of a lane's are neighbours. */
template <lam_dtype DTYPE, int ALIGNMENT> struct format_16 {
    enum {
        ALIGN = ALIGNMENT,
        STEP_K = 256,
        STEP_BYTES = 512,
        SLOT_BYTES = 512 + (ALIGNMENT == 16 ? 0 : 32),
        STEP_GROUPS = 8,
        STAGES = 3,
        SLICES_MAX = 4,
        PARTS = 1,
        PART_FOURS = 2,
        OFFSET = 0,
    };
    uint32_t words[4];

    static __device__ __forceinline__ uint32_t x_offset(uint32_t lane)
    {
        return lane / 4 * X_PITCH + lane % 4 * 8;
    }

    __device__ __forceinline__ void fetch(uint32_t at, uint32_t lane, uint32_t left)
    {
        smem_words<ALIGN>(at + lane * 16, words);
        if (left >= STEP_K)
            return;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) { /* what lies behind the row's end may be a NaN */
            uint32_t k = lane * 8 + 2 * i;
            words[i] = k + 1 < left ? words[i] : k < left ? words[i] & 0xFFFFu : 0;
        }
    }

    __device__ __forceinline__ void four(int c, float (&w)[4]) const
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t word = words[2 * c + i];
            if (DTYPE == LAM_BF16) {
                w[2 * i] = __uint_as_float(word << 16);
                w[2 * i + 1] = __uint_as_float(word & 0xFFFF0000u);
            } else {
                w[2 * i] = half_bits(word & 0xFFFFu);
                w[2 * i + 1] = half_bits(word >> 16);
            }
        }
    }

    __device__ __forceinline__ float scaled(int, float dot, float, float sum) const
    {
        return sum + dot;
    }
};

template <int ALIGNMENT> struct format_32 {
    enum {
        ALIGN = ALIGNMENT,
        STEP_K = 128,
        STEP_BYTES = 512,
        SLOT_BYTES = 512 + (ALIGNMENT == 16 ? 0 : 32),
        STEP_GROUPS = 4,
        STAGES = 3,
        SLICES_MAX = 4,
        PARTS = 1,
        PART_FOURS = 1,
        OFFSET = 0,
    };
    uint32_t words[4];

    static __device__ __forceinline__ uint32_t x_offset(uint32_t lane)
    {
        return lane / 8 * X_PITCH + lane % 8 * 4;
    }

    __device__ __forceinline__ void fetch(uint32_t at, uint32_t lane, uint32_t left)
    {
        smem_words<ALIGN>(at + lane * 16, words);
        if (left >= STEP_K)
            return;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            words[i] = lane * 4 + i < left ? words[i] : 0;
    }

    __device__ __forceinline__ void four(int, float (&w)[4]) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            w[i] = __uint_as_float(words[i]);
    }

    __device__ __forceinline__ float scaled(int, float dot, float, float sum) const
    {
        return sum + dot;
    }
};

int lam_cuda_gemv_float(CUstream_st *stream, const lam_cuda_chip *chip, const lam_matmul_args *args)
{
    lam_dtype dtype = args->mats[0].dtype;
    uint64_t row_bytes = static_cast<uint64_t>(args->n_cols) * (dtype == LAM_F32 ? 4 : 2);
    gemv_args own = gemv_args_of(args, row_bytes);
    bool aligned = rows_aligned(own, 16);

    if (dtype == LAM_F32)
        return aligned ? gemv_of_format<format_32<16>>(stream, chip, own)
                       : gemv_of_format<format_32<2>>(stream, chip, own);
    if (dtype == LAM_F16)
        return aligned ? gemv_of_format<format_16<LAM_F16, 16>>(stream, chip, own)
                       : gemv_of_format<format_16<LAM_F16, 2>>(stream, chip, own);
    return aligned ? gemv_of_format<format_16<LAM_BF16, 16>>(stream, chip, own)
                   : gemv_of_format<format_16<LAM_BF16, 2>>(stream, chip, own);
}

int lam_cuda_prepare_gemv_float(const lam_cuda_chip *chip)
{
    int error = prepare_gemv<format_32<16>>(chip);

    error = error != 0 ? error : prepare_gemv<format_32<2>>(chip);
    error = error != 0 ? error : prepare_gemv<format_16<LAM_F16, 16>>(chip);
    error = error != 0 ? error : prepare_gemv<format_16<LAM_F16, 2>>(chip);
    error = error != 0 ? error : prepare_gemv<format_16<LAM_BF16, 16>>(chip);
    return error != 0 ? error : prepare_gemv<format_16<LAM_BF16, 2>>(chip);
}
