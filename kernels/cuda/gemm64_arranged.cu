/*
 * gemm64_arranged: gemm64 for matrices in the order of arranged.cuh. A step of a warp's rows is two
 * runs of bytes; a lane reads the words of two rows together. The arithmetic is that of the file's
 * order, so the bits are.
 */
#include "kernels/cuda/gemm64_lanes.cuh"

static constexpr uint32_t FRAGMENT = 512; /* bytes */

/* A fragment's words of rows g and g + 8, [row][16 columns, or block]. */
static __device__ __forceinline__ void load_words(uint32_t at, uint32_t lane, uint32_t (&w)[2][2])
{
    uint4 four = *reinterpret_cast<const uint4 *>(smem_at(at + lane * 16));

    w[0][0] = four.x;
    w[1][0] = four.y;
    w[0][1] = four.z;
    w[1][1] = four.w;
}

/* What arranged.cuh stores as [g][n][row]: of row `row` of 16, entry n of N, SIZE bytes. */
template <uint32_t N, uint32_t SIZE>
static __device__ __forceinline__ uint32_t entry_of(uint32_t row, uint32_t n)
{
    return ((row % 8 * N + n) * 2 + row / 8) * SIZE;
}

template <lam_dtype DTYPE> struct chunk_block {
    using pairs = pairs_block<DTYPE>;
    static constexpr uint32_t STEP_K = 128;
    static constexpr uint32_t STEP_BYTES = 4 * pairs::BYTES;
    static constexpr uint32_t ROW_SLOT = STEP_BYTES;
    static constexpr uint32_t STAGES = 2;
    static constexpr uint32_t FIFTHS_AT = 2 * FRAGMENT;
    static constexpr uint32_t SCALES_AT = FIFTHS_AT + (pairs::FIFTH ? 256 : 0);
    enum { ALIGN = 16, SUPER = 0, HAS_MIN = 0, ARRANGED = 1 };
    using view = chunk_row;

    static __device__ __forceinline__ void fetch_two(const chunk_block (&)[LANE_ROWS],
        const view (&rows)[LANE_ROWS], uint32_t first, uint32_t slice, uint32_t half, uint32_t lane,
        uint32_t (&w)[LANE_ROWS][2][2])
    {
        uint32_t words[2][2];

        load_words(rows[first].at + slice * FRAGMENT, lane, words);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const view &row = rows[first + i];
            uint32_t block = slice * 2 + half;
            uint32_t scales = row.at + SCALES_AT + entry_of<4, pairs::HEAD>(row.row, block);
            __half2 d = two_of(scales);
            __half2 m = pairs::MIN ? two_of(scales + 2) : d;
            uint32_t fifth =
                pairs::FIFTH ? *smem_at(row.at + FIFTHS_AT + lane * 8 + i * 4 + block) : 0;
#pragma unroll
            for (uint32_t s = 0; s < 2; s++)
                pairs::unpack(words[i][half], s, fifth >> 4 * s, d, m, w[first + i][s]);
        }
    }
};

struct chunk_q8_0 {
    static constexpr uint32_t STEP_K = 128;
    static constexpr uint32_t STEP_BYTES = 4 * 34;
    static constexpr uint32_t ROW_SLOT = STEP_BYTES;
    static constexpr uint32_t STAGES = 2;
    enum { ALIGN = 16, SUPER = 0, HAS_MIN = 0, ARRANGED = 1 };
    using view = chunk_row;

    static __device__ __forceinline__ void fetch_two(const chunk_q8_0 (&)[LANE_ROWS],
        const view (&rows)[LANE_ROWS], uint32_t first, uint32_t slice, uint32_t half, uint32_t lane,
        uint32_t (&w)[LANE_ROWS][2][2])
    {
        uint32_t block = slice * 2 + half;
        uint32_t words[2][2];

        load_words(rows[first].at + block * FRAGMENT, lane, words);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const view &row = rows[first + i];
            __half2 d = two_of(row.at + 4 * FRAGMENT + entry_of<4, 2>(row.row, block));
#pragma unroll
            for (uint32_t s = 0; s < 2; s++)
                pairs_q8_0(words[i][s], d, w[first + i][s]);
        }
    }
};

template <bool FIFTH> struct chunk_k {
    static constexpr uint32_t STEP_K = 256;
    static constexpr uint32_t STEP_BYTES = FIFTH ? 176 : 144;
    static constexpr uint32_t ROW_SLOT = STEP_BYTES;
    static constexpr uint32_t STAGES = 2;
    static constexpr uint32_t FIFTHS_AT = 4 * FRAGMENT;
    static constexpr uint32_t HEADS_AT = FIFTHS_AT + (FIFTH ? FRAGMENT : 0);
    enum { ALIGN = 16, SUPER = 1, HAS_MIN = 1, ARRANGED = 1 };
    using view = chunk_row;
    lane_scales_k scales;

    __device__ __forceinline__ void prepare(const view &row, uint32_t lane)
    {
        scales.unpack(row.at + HEADS_AT + row.row * 16, lane);
    }

    static __device__ __forceinline__ void fetch_two(const chunk_k (&own)[LANE_ROWS],
        const view (&rows)[LANE_ROWS], uint32_t first, uint32_t slice, uint32_t half, uint32_t lane,
        uint32_t (&w)[LANE_ROWS][2][2])
    {
        uint32_t group = slice * 2 + half;
        uint32_t words[2][2];
        uint32_t fifths[2][2] = {};

        load_words(rows[first].at + slice * FRAGMENT, lane, words);
        if (FIFTH)
            load_words(rows[first].at + FIFTHS_AT, lane, fifths);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            __half2 scale = own[first + i].scales.scale_of(group, lane);
#pragma unroll
            for (uint32_t s = 0; s < 2; s++)
                pairs_k<FIFTH>(words[i][s], fifths[i][s], group, scale, w[first + i][s]);
        }
    }

    __device__ __forceinline__ uint32_t minima(bool upper) const
    {
        return scales.minima(upper);
    }

    static __device__ __forceinline__ float2 d_of(const view &row)
    {
        uint32_t head = row.at + HEADS_AT + row.row * 16;

        return make_float2(half_bits(smem_u16(head)), -half_bits(smem_u16(head + 2)));
    }
};

struct chunk_q6_k {
    static constexpr uint32_t STEP_K = 256;
    static constexpr uint32_t STEP_BYTES = 210;
    static constexpr uint32_t ROW_SLOT = STEP_BYTES;
    static constexpr uint32_t STAGES = 2;
    static constexpr uint32_t SCALES_AT = 6 * FRAGMENT;
    static constexpr uint32_t D_AT = SCALES_AT + 256;
    enum { ALIGN = 16, SUPER = 1, HAS_MIN = 0, ARRANGED = 1 };
    using view = chunk_row;
    uint32_t scales[2]; /* of groups 2t and 2t + 1, F16 */

    __device__ __forceinline__ void prepare(const view &row, uint32_t lane)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t group = lane % 4 * 2 + i;
            scales[i] = scales_q6_k(
                smem_u16(row.at + SCALES_AT + entry_of<4, 4>(row.row, group % 4) + group / 4 * 2));
        }
    }

    static __device__ __forceinline__ void fetch_two(const chunk_q6_k (&own)[LANE_ROWS],
        const view (&rows)[LANE_ROWS], uint32_t first, uint32_t slice, uint32_t half, uint32_t lane,
        uint32_t (&w)[LANE_ROWS][2][2])
    {
        uint32_t part = slice / 2;
        uint32_t low[2][2];
        uint32_t high[2][2];

        load_words(rows[first].at + (part * 2 + half) * FRAGMENT, lane, low);
        load_words(rows[first].at + (4 + part) * FRAGMENT, lane, high);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t two =
                __shfl_sync(0xFFFFFFFFu, own[first + i].scales[half], (lane & ~3u) + slice);
#pragma unroll
            for (uint32_t s = 0; s < 2; s++)
                pairs_q6_k(low[i][s], high[i][s], slice % 2 * 2 + half,
                    as_half2(twice(two, s == 1)), w[first + i][s]);
        }
    }

    static __device__ __forceinline__ float2 d_of(const view &row)
    {
        return make_float2(half_bits(smem_u16(row.at + D_AT + entry_of<1, 2>(row.row, 0))), 0);
    }
};

int lam_cuda_gemm64_arranged(
    CUstream_st *stream, const lam_cuda_chip *chip, lam_dtype dtype, const gemm64_args &args)
{
    switch (dtype) {
    case LAM_Q4_0:
        return gemm64_of_format<chunk_block<LAM_Q4_0>>(stream, chip, args);
    case LAM_Q4_1:
        return gemm64_of_format<chunk_block<LAM_Q4_1>>(stream, chip, args);
    case LAM_Q5_0:
        return gemm64_of_format<chunk_block<LAM_Q5_0>>(stream, chip, args);
    case LAM_Q5_1:
        return gemm64_of_format<chunk_block<LAM_Q5_1>>(stream, chip, args);
    case LAM_Q4_K:
        return gemm64_of_format<chunk_k<false>>(stream, chip, args);
    case LAM_Q5_K:
        return gemm64_of_format<chunk_k<true>>(stream, chip, args);
    case LAM_Q6_K:
        return gemm64_of_format<chunk_q6_k>(stream, chip, args);
    default:
        return gemm64_of_format<chunk_q8_0>(stream, chip, args);
    }
}

int lam_cuda_prepare_gemm64_arranged(void)
{
    int error = prepare_gemm64<chunk_block<LAM_Q4_0>>();

    error = error != 0 ? error : prepare_gemm64<chunk_block<LAM_Q4_1>>();
    error = error != 0 ? error : prepare_gemm64<chunk_block<LAM_Q5_0>>();
    error = error != 0 ? error : prepare_gemm64<chunk_block<LAM_Q5_1>>();
    error = error != 0 ? error : prepare_gemm64<chunk_k<false>>();
    error = error != 0 ? error : prepare_gemm64<chunk_k<true>>();
    error = error != 0 ? error : prepare_gemm64<chunk_q6_k>();
    return error != 0 ? error : prepare_gemm64<chunk_q8_0>();
}
