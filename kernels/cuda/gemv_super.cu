/*
 * gemv_super: gemv for the formats with blocks of 256 weights. A lane has 32 weights of each row in
 * a step of 4 blocks: lane / 8 is the block, lane % 8 the part of it.
 */
#include "kernels/cuda/gemv.cuh"

/* Q4_K and Q5_K: d * scale * q - dmin * min, scales and mins of 6 bits. */
template <bool FIFTH, int ALIGNMENT> struct format_k {
    enum {
        BYTES = FIFTH ? 176 : 144,
        ALIGN = ALIGNMENT,
        STEP_K = 1024,
        STEP_BYTES = 4 * BYTES,
        SLOT_BYTES = STEP_BYTES + (ALIGNMENT == 16 ? 0 : 32),
        STEP_GROUPS = 32,
        STAGES = 3,
        SLICES_MAX = 2,
        PARTS = 1,
        PART_FOURS = 8,
        OFFSET = 1,
    };
    uint32_t words[8]; /* the four bits at 0, 8, 16, 24 of each word are this lane's */
    uint32_t fifth[FIFTH ? 8 : 1];
    float d;
    float m;

    static __device__ __forceinline__ uint32_t x_offset(uint32_t lane)
    {
        return lane * X_PITCH;
    }

    __device__ __forceinline__ void fetch(uint32_t at, uint32_t lane, uint32_t left)
    {
        uint32_t s = lane % 8;
        bool inside = lane * 32 < left;

        at += lane / 8 * BYTES;
        uint32_t a = *smem_at(at + 4 + s % 4);
        uint32_t b = *smem_at(at + 8 + s % 4);
        uint32_t c = *smem_at(at + 12 + s % 4);
        uint32_t scale = s < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
        uint32_t min = s < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
        d = inside ? half_bits(smem_u16(at)) * static_cast<float>(scale) : 0.0f;
        m = inside ? half_bits(smem_u16(at + 2)) * static_cast<float>(min) : 0.0f;
        smem_words<ALIGN>(at + (FIFTH ? 48 : 16) + s / 2 * 32, words);
#pragma unroll
        for (int i = 0; i < 8; i++)
            words[i] >>= s % 2 * 4;
        if (FIFTH) {
            smem_words<ALIGN>(at + 16, fifth);
#pragma unroll
            for (int i = 0; i < 8; i++)
                fifth[i % (FIFTH ? 8 : 1)] >>= s;
        }
    }

    __device__ __forceinline__ void four(int c, float (&w)[4]) const
    {
        uint32_t word = words[c];

        if (FIFTH) {
            uint32_t high = fifth[c % (FIFTH ? 8 : 1)];
            w[0] = float_of_5<0, 0>(word, high);
            w[1] = float_of_5<8, 8>(word, high);
            w[2] = float_of_5<16, 16>(word, high);
            w[3] = float_of_5<24, 24>(word, high);
        } else {
            w[0] = float_of_4<0>(word);
            w[1] = float_of_4<8>(word);
            w[2] = float_of_4<16>(word);
            w[3] = float_of_4<24>(word);
        }
    }

    __device__ __forceinline__ float scaled(int, float dot, float x_sum, float sum) const
    {
        sum = fmaf(d, fmaf(FIFTH ? -32.0f : -16.0f, x_sum, dot), sum);
        return fmaf(-m, x_sum, sum);
    }
};

/* Q6_K: d * scale * (q - 32), a scale of 8 bits for every 16 weights. */
struct format_q6_k {
    enum {
        BYTES = 210,
        ALIGN = 2,
        STEP_K = 1024,
        STEP_BYTES = 4 * BYTES,
        SLOT_BYTES = STEP_BYTES + 40, /* to a multiple of 16 */
        STEP_GROUPS = 32,
        STAGES = 2,
        SLICES_MAX = 2,
        PARTS = 2,
        PART_FOURS = 4,
        OFFSET = 1,
    };
    uint32_t words[8]; /* four bits at 0, 8, 16, 24 */
    uint32_t high[8];  /* two bits there */
    float d[2];

    static __device__ __forceinline__ uint32_t x_offset(uint32_t lane)
    {
        return lane * X_PITCH;
    }

    __device__ __forceinline__ void fetch(uint32_t at, uint32_t lane, uint32_t left)
    {
        uint32_t s = lane % 8;
        uint32_t quarter = s % 4;
        bool inside = lane * 32 < left;

        at += lane / 8 * BYTES;
        float all = inside ? half_bits(smem_u16(at + 208)) : 0.0f;
        uint32_t scales = smem_u16(at + 192 + 2 * s);
        d[0] = all * static_cast<float>(static_cast<int8_t>(scales & 255));
        d[1] = all * static_cast<float>(static_cast<int8_t>(scales >> 8));
        smem_words<ALIGN>(at + s / 4 * 64 + quarter % 2 * 32, words);
        smem_words<ALIGN>(at + 128 + s / 4 * 32, high);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            words[i] >>= quarter / 2 * 4;
            high[i] >>= quarter * 2;
        }
    }

    __device__ __forceinline__ void four(int c, float (&w)[4]) const
    {
        w[0] = float_of_6<0, 0>(words[c], high[c]);
        w[1] = float_of_6<8, 8>(words[c], high[c]);
        w[2] = float_of_6<16, 16>(words[c], high[c]);
        w[3] = float_of_6<24, 24>(words[c], high[c]);
    }

    __device__ __forceinline__ float scaled(int part, float dot, float x_sum, float sum) const
    {
        return fmaf(d[part], fmaf(-96.0f, x_sum, dot), sum);
    }
};

int lam_cuda_gemv_super(CUstream_st *stream, const lam_cuda_chip *chip, const lam_matmul_args *args)
{
    lam_dtype dtype = args->mats[0].dtype;
    uint64_t row_bytes =
        static_cast<uint64_t>(args->n_cols) / 256 * lam_dtype_info(dtype)->block_bytes;
    gemv_args own = gemv_args_of(args, row_bytes);
    bool aligned = rows_aligned(own, 16);

    if (dtype == LAM_Q4_K)
        return aligned ? gemv_of_format<format_k<false, 16>>(stream, chip, own)
                       : gemv_of_format<format_k<false, 2>>(stream, chip, own);
    if (dtype == LAM_Q5_K)
        return aligned ? gemv_of_format<format_k<true, 16>>(stream, chip, own)
                       : gemv_of_format<format_k<true, 2>>(stream, chip, own);
    return gemv_of_format<format_q6_k>(stream, chip, own);
}

int lam_cuda_prepare_gemv_super(const lam_cuda_chip *chip)
{
    int error = prepare_gemv<format_k<false, 16>>(chip);

    error = error != 0 ? error : prepare_gemv<format_k<false, 2>>(chip);
    error = error != 0 ? error : prepare_gemv<format_k<true, 16>>(chip);
    error = error != 0 ? error : prepare_gemv<format_k<true, 2>>(chip);
    return error != 0 ? error : prepare_gemv<format_q6_k>(chip);
}
