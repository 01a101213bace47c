/*
 * gemv_block: gemv for the formats with blocks of 32 weights. A lane has one block of each row in a
 * step of 32 blocks. Scales and offsets are f16, exact in f32.
 */
#include "kernels/cuda/gemv.cuh"

template <lam_dtype DTYPE, int ALIGNMENT> struct format_block {
    enum {
        HAS_MIN = DTYPE == LAM_Q4_1 || DTYPE == LAM_Q5_1,
        HAS_FIFTH = DTYPE == LAM_Q5_0 || DTYPE == LAM_Q5_1,
        BYTES = 2 + (HAS_MIN ? 2 : 0) + (HAS_FIFTH ? 4 : 0) + 16,
        ALIGN = ALIGNMENT,
        STEP_K = 1024,
        STEP_BYTES = 32 * BYTES,
        SLOT_BYTES = STEP_BYTES + 32, /* a skew of up to 15, a word of reading ahead */
        STEP_GROUPS = 32,
        STAGES = 3,
        SLICES_MAX = 2,
        PARTS = 1,
        PART_FOURS = 8,
        OFFSET = 1,
        /* What the bits under the exponent add, and what the format takes off. */
        ADDED = HAS_FIFTH ? 32 : 16,
        BIAS = ADDED + (HAS_MIN        ? 0
                           : HAS_FIFTH ? 16
                                       : 8),
    };
    uint32_t words[4];
    uint32_t fifth[1];
    float d;
    float m;

    static __device__ __forceinline__ uint32_t x_offset(uint32_t lane)
    {
        return lane * X_PITCH;
    }

    __device__ __forceinline__ void fetch(uint32_t at, uint32_t lane, uint32_t left)
    {
        bool inside = lane * 32 < left;

        at += lane * BYTES;
        d = inside ? half_bits(smem_u16(at)) : 0.0f;
        m = HAS_MIN && inside ? half_bits(smem_u16(at + 2)) : 0.0f;
        at += HAS_MIN ? 4 : 2;
        if (HAS_FIFTH) {
            smem_words<ALIGN>(at, fifth);
            at += 4;
        }
        smem_words<ALIGN>(at, words);
    }

    template <int C> __device__ __forceinline__ void four_at(float (&w)[4]) const
    {
        const int low = C < 4 ? 0 : 4;
        uint32_t word = words[C % 4];

        if (HAS_FIFTH) {
            w[0] = float_of_5<low, 4 * C>(word, fifth[0]);
            w[1] = float_of_5<low + 8, 4 * C + 1>(word, fifth[0]);
            w[2] = float_of_5<low + 16, 4 * C + 2>(word, fifth[0]);
            w[3] = float_of_5<low + 24, 4 * C + 3>(word, fifth[0]);
        } else {
            w[0] = float_of_4<low>(word);
            w[1] = float_of_4<low + 8>(word);
            w[2] = float_of_4<low + 16>(word);
            w[3] = float_of_4<low + 24>(word);
        }
    }

    __device__ __forceinline__ void four(int c, float (&w)[4]) const
    {
        switch (c) { /* c is a constant once the loops are unrolled */
        case 0:
            return four_at<0>(w);
        case 1:
            return four_at<1>(w);
        case 2:
            return four_at<2>(w);
        case 3:
            return four_at<3>(w);
        case 4:
            return four_at<4>(w);
        case 5:
            return four_at<5>(w);
        case 6:
            return four_at<6>(w);
        default:
            return four_at<7>(w);
        }
    }

    __device__ __forceinline__ float scaled(int, float dot, float x_sum, float sum) const
    {
        sum = fmaf(d, fmaf(-static_cast<float>(BIAS), x_sum, dot), sum);
        return HAS_MIN ? fmaf(m, x_sum, sum) : sum;
    }
};

struct format_q8_0 {
    enum {
        ALIGN = 2,
        STEP_K = 1024,
        STEP_BYTES = 32 * 34,
        SLOT_BYTES = STEP_BYTES + 32,
        STEP_GROUPS = 32,
        STAGES = 2,
        SLICES_MAX = 2,
        PARTS = 1,
        PART_FOURS = 8,
        OFFSET = 0,
    };
    uint32_t words[8];
    float d;

    static __device__ __forceinline__ uint32_t x_offset(uint32_t lane)
    {
        return lane * X_PITCH;
    }

    __device__ __forceinline__ void fetch(uint32_t at, uint32_t lane, uint32_t left)
    {
        at += lane * 34;
        d = lane * 32 < left ? half_bits(smem_u16(at)) : 0.0f;
        smem_words<ALIGN>(at + 2, words);
    }

    /* 2^23 + (128 + q) as bits, less the rest: exact. */
    __device__ __forceinline__ void four(int c, float (&w)[4]) const
    {
        uint32_t word = words[c] ^ 0x80808080u;

        w[0] = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7440)) - 8388736.0f;
        w[1] = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7441)) - 8388736.0f;
        w[2] = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7442)) - 8388736.0f;
        w[3] = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7443)) - 8388736.0f;
    }

    __device__ __forceinline__ float scaled(int, float dot, float, float sum) const
    {
        return fmaf(d, dot, sum);
    }
};

int lam_cuda_gemv_block(CUstream_st *stream, const lam_cuda_chip *chip, const lam_matmul_args *args)
{
    lam_dtype dtype = args->mats[0].dtype;
    uint64_t row_bytes =
        static_cast<uint64_t>(args->n_cols) / 32 * lam_dtype_info(dtype)->block_bytes;
    gemv_args own = gemv_args_of(args, row_bytes);
    bool aligned = rows_aligned(own, 4);

    switch (dtype) {
    case LAM_Q4_0:
        return gemv_of_format<format_block<LAM_Q4_0, 2>>(stream, chip, own);
    case LAM_Q4_1:
        return aligned ? gemv_of_format<format_block<LAM_Q4_1, 4>>(stream, chip, own)
                       : gemv_of_format<format_block<LAM_Q4_1, 2>>(stream, chip, own);
    case LAM_Q5_0:
        return gemv_of_format<format_block<LAM_Q5_0, 2>>(stream, chip, own);
    case LAM_Q5_1:
        return aligned ? gemv_of_format<format_block<LAM_Q5_1, 4>>(stream, chip, own)
                       : gemv_of_format<format_block<LAM_Q5_1, 2>>(stream, chip, own);
    default:
        return gemv_of_format<format_q8_0>(stream, chip, own);
    }
}

int lam_cuda_prepare_gemv_block(const lam_cuda_chip *chip)
{
    int error = prepare_gemv<format_block<LAM_Q4_0, 2>>(chip);

    error = error != 0 ? error : prepare_gemv<format_block<LAM_Q4_1, 4>>(chip);
    error = error != 0 ? error : prepare_gemv<format_block<LAM_Q4_1, 2>>(chip);
    error = error != 0 ? error : prepare_gemv<format_block<LAM_Q5_0, 2>>(chip);
    error = error != 0 ? error : prepare_gemv<format_block<LAM_Q5_1, 4>>(chip);
    error = error != 0 ? error : prepare_gemv<format_block<LAM_Q5_1, 2>>(chip);
    return error != 0 ? error : prepare_gemv<format_q8_0>(chip);
}
