/*
 * gemv_block: gemv for the formats with blocks of 32 weights: a step has 8 blocks of each row. Of a
 * block a lane holds bytes 4t to 4t + 3: their low four bits are weights 4t.., the high ones 16 +
 * 4t.. Scales and offsets are f16, exact in f32.
 */
#include "kernels/cuda/gemv.cuh"

template <lam_dtype DTYPE, int ALIGNMENT> struct format_block {
    static const bool FIFTH = DTYPE == LAM_Q5_0 || DTYPE == LAM_Q5_1;
    static const bool MIN = DTYPE == LAM_Q4_1 || DTYPE == LAM_Q5_1;
    enum : uint32_t {
        HEAD = MIN ? 4 : 2,
        BYTES = HEAD + (FIFTH ? 4 : 0) + 16,
        STEP_K = 256,
        STEP_BYTES = 8 * BYTES,
        ROW_SLOT = FIFTH ? 208 : 176, /* room for a skew; from row to row other banks */
        SLOT = TILE * ROW_SLOT,
        STAGES = 3,
        SCALE_BYTES = 0,
        /* What is taken off the bits: 128 that make them a number, and the format's own. */
        LESS = MIN     ? 0x43004300u
               : FIFTH ? 0x43104310u
                       : 0x43084308u,
    };
    enum { ALIGN = ALIGNMENT, SCALES = 1, HAS_MIN = MIN, TERMS = 1 };
    static const order ORDER = ORDER_HALVES;
    static_assert(ROW_SLOT >= STEP_BYTES + 15, "a skew fits");
    float d[1];
    float m;

    static __device__ __forceinline__ uint32_t place(uint32_t, uint32_t piece)
    {
        return piece;
    }

    static __device__ __forceinline__ void prepare(const row_bytes_at (&)[2], uint32_t, uint32_t)
    {
    }

    __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t, uint32_t group,
        uint32_t lane, uint32_t, uint32_t left, uint32_t (&w)[TERMS][4])
    {
        bool inside = group * GROUP_K < left;
        uint32_t t = lane % 4;

        uint32_t at = group * BYTES;
        d[0] = inside ? half_bits(smem_u16(row.at + at)) : 0.0f;
        m = MIN && inside ? half_bits(smem_u16(row.at + at + 2)) : 0.0f;
        uint32_t word = smem_word<ALIGN>(row, 4 * t, at + HEAD + (FIFTH ? 4 : 0));
        /* Bits 4t.. and 16 + 4t.. of the word of fifth bits. */
        uint32_t bits = FIFTH ? smem_word<ALIGN>(row, 0, at + HEAD) >> 4 * t : 0;
#pragma unroll
        for (int i = 0; i < 4; i++) { /* low 0 and 2, low 1 and 3, high 0 and 2, high 1 and 3 */
            uint32_t four = word >> (i / 2 * 4 + i % 2 * 8);
            if (FIFTH) {
                uint32_t two = bits >> (i / 2 * 16 + i % 2) & 5; /* to bits 4 and 20 */
                four = (four & 0x000F000Fu) | (two * 0x00040010u & 0x00100010u);
            }
            w[0][i] = small_ints(four, FIFTH ? 0x001F001Fu : 0x000F000Fu, LESS);
        }
    }
};

struct format_q8_0 {
    enum : uint32_t {
        BYTES = 34,
        STEP_K = 256,
        STEP_BYTES = 8 * BYTES,
        ROW_SLOT = 304,
        SLOT = TILE * ROW_SLOT,
        STAGES = 2,
        SCALE_BYTES = 0,
    };
    enum { ALIGN = 2, SCALES = 1, HAS_MIN = 0, TERMS = 1 };
    static const order ORDER = ORDER_HALVES;
    float d[1];
    float m;

    static __device__ __forceinline__ uint32_t place(uint32_t, uint32_t piece)
    {
        return piece;
    }

    static __device__ __forceinline__ void prepare(const row_bytes_at (&)[2], uint32_t, uint32_t)
    {
    }

    __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t, uint32_t group,
        uint32_t lane, uint32_t, uint32_t left, uint32_t (&w)[TERMS][4])
    {
        uint32_t at = group * BYTES;
        d[0] = group * GROUP_K < left ? half_bits(smem_u16(row.at + at)) : 0.0f;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t word = smem_word<ALIGN>(row, lane % 4 * 4, at + 2 + i * 16);
#pragma unroll
            for (int odd = 0; odd < 2; odd++) {
                /* 128 + the low 7 bits, less 128, or 256 where the sign bit is set. */
                uint32_t bytes = word >> odd * 8;
                w[0][i * 2 + odd] =
                    small_ints(bytes, 0x007F007Fu, (bytes & 0x00800080u) | 0x43004300u);
            }
        }
    }
};

int lam_cuda_gemv_block(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_matmul_args *args, void *workspace)
{
    lam_dtype dtype = args->mats[0].dtype;
    uint64_t row_bytes =
        static_cast<uint64_t>(args->n_cols) / 32 * lam_dtype_info(dtype)->block_bytes;
    gemv_args own = gemv_args_of(args, row_bytes, workspace);
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
