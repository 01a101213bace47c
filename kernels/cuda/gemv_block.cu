/*
 * gemv_block: gemv for the formats with blocks of 32 weights: a step has 8 blocks of each row. Of a
 * block a lane holds bytes 4t to 4t + 3: their low four bits are weights 4t.., the high ones 16 +
 * 4t..
 */
#include "kernels/cuda/gemv_lanes.cuh"

template <lam_dtype DTYPE, int ALIGNMENT> struct format_block {
    typedef math_int8 math;
    using lanes = lanes_block<DTYPE>;
    static const bool FIFTH = lanes::FIFTH;
    static const bool MIN = lanes::MIN;
    enum : uint32_t {
        HEAD = lanes::HEAD,
        BYTES = lanes::BYTES,
        STEP_K = 256,
        STEP_BYTES = 8 * BYTES,
        ROW_SLOT = FIFTH ? 208 : 176, /* room for a skew; from row to row other banks */
        SLOT = TILE * ROW_SLOT,
        STAGES = 3,
        SCALE_BYTES = 0,
    };
    enum { ALIGN = ALIGNMENT, SCALES = 1, HAS_MIN = MIN };
    static_assert(ROW_SLOT >= STEP_BYTES + 15, "a skew fits");

    static __device__ __forceinline__ uint32_t place(uint32_t, uint32_t piece)
    {
        return piece;
    }

    static __device__ __forceinline__ void prepare(const row_bytes_at (&)[2], uint32_t, uint32_t)
    {
    }

    __device__ __forceinline__ void begin(const row_bytes_at &, uint32_t)
    {
    }

    static __device__ __forceinline__ group_scales<format_block> shared_scales(
        const row_bytes_at &row, uint32_t, uint32_t group, uint32_t, uint32_t, uint32_t left)
    {
        bool inside = group * GROUP_K < left;
        uint32_t at = row.at + group * BYTES;

        return {{inside ? half_bits(smem_u16(at)) * lanes::FACTOR : 0.0f},
            MIN && inside ? half_bits(smem_u16(at + 2)) : 0.0f};
    }

    __device__ __forceinline__ group_scales<format_block> lane_scales(
        const row_bytes_at &row, uint32_t four, uint32_t t, uint32_t left) const
    {
        return shared_scales(row, 0, four + t, 0, 0, left);
    }

    __device__ __forceinline__ void fetch(
        const row_bytes_at &row, uint32_t group, uint32_t lane, uint32_t (&w)[2])
    {
        uint32_t t = lane % 4;
        uint32_t at = group * BYTES;

        uint32_t word = smem_word<ALIGN>(row, 4 * t, at + HEAD + (FIFTH ? 4 : 0));
        /* Bits 4t.. and 16 + 4t.. of the word of fifth bits. */
        uint32_t bits = FIFTH ? smem_word<ALIGN>(row, 0, at + HEAD) >> 4 * t : 0;
        lanes::unpack(word, bits, 16, w);
    }
};

struct format_q8_0 {
    typedef math_int8 math;
    enum : uint32_t {
        BYTES = 34,
        STEP_K = 256,
        STEP_BYTES = 8 * BYTES,
        ROW_SLOT = 304,
        SLOT = TILE * ROW_SLOT,
        STAGES = 2,
        SCALE_BYTES = 0,
    };
    enum { ALIGN = 2, SCALES = 1, HAS_MIN = 0 };

    static __device__ __forceinline__ uint32_t place(uint32_t, uint32_t piece)
    {
        return piece;
    }

    static __device__ __forceinline__ void prepare(const row_bytes_at (&)[2], uint32_t, uint32_t)
    {
    }

    __device__ __forceinline__ void begin(const row_bytes_at &, uint32_t)
    {
    }

    static __device__ __forceinline__ group_scales<format_q8_0> shared_scales(
        const row_bytes_at &row, uint32_t, uint32_t group, uint32_t, uint32_t, uint32_t left)
    {
        return {{group * GROUP_K < left ? half_bits(smem_u16(row.at + group * BYTES)) : 0.0f}, 0};
    }

    __device__ __forceinline__ group_scales<format_q8_0> lane_scales(
        const row_bytes_at &row, uint32_t four, uint32_t t, uint32_t left) const
    {
        return shared_scales(row, 0, four + t, 0, 0, left);
    }

    __device__ __forceinline__ void fetch(
        const row_bytes_at &row, uint32_t group, uint32_t lane, uint32_t (&w)[2])
    {
        uint32_t at = group * BYTES;

        w[0] = smem_word<ALIGN>(row, lane % 4 * 4, at + 2);
        w[1] = smem_word<ALIGN>(row, lane % 4 * 4, at + 18);
    }
};

int lam_cuda_gemv_block(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_cuda_gemv_args *args, void *workspace)
{
    lam_dtype dtype = args->product.mats[0].dtype;
    uint64_t row_bytes =
        static_cast<uint64_t>(args->product.n_cols) / 32 * lam_dtype_info(dtype)->block_bytes;
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
