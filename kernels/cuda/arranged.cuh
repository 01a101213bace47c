/*
 * arranged: the order in which a packed matrix that stays on the device lies, once arrange.cu has
 * put it there: that in which the lanes of gemv want it. Same bytes, same place, so plans do not
 * change. For matrices of whole tiles (16 rows) and whole chunks (256 columns), 16-byte aligned.
 *
 *     [tile][chunk]: fragments, [fragment][lane] of 16 bytes, then scales
 *
 * of as many bytes as 16 rows of 256 columns have in the file. Formats with blocks of 32 cut a chunk
 * into two fours of 128 columns, and each of them is made so.
 *
 * Lane 4g + t has rows g and g + 8. Its fragment is bytes 4t to 4t + 3 of 16 bytes of row g, the
 * same of row g + 8, then both of the 16 bytes behind:
 *
 *     Q8_0          4 of a four, one for each block: the left operand of mma_s8 as it is
 *     Q4_0 to Q5_1  2 of a four, one for two blocks: their halves of bytes are two operands
 *     Q4_K, Q5_K    4, one for two groups, whose halves of bytes they are; Q5_K: one of fifth bits
 *     Q6_K          4 of low bits, 2 of high ones, as they come in the file
 *
 * and behind them
 *
 *     Q5_0, Q5_1    [lane][row g, g + 8] a byte for each block: fifth bits of the lane's weights
 *     blocks of 32  [lane][row g, g + 8] d of block t, with the minimum if there is one
 *     Q4_K, Q5_K    [row] d, dmin and scales, the 16 bytes of the file
 *     Q6_K          [lane][row g, g + 8] scales of groups t and t + 4; [g][row g, g + 8] d
 *
 * A lane's part of a chunk, struct arranged<DTYPE>, is a source of gemv_int8.cuh, and what
 * pack_arranged.cu unpacks.
 */
#ifndef LAMINAR_KERNELS_CUDA_ARRANGED_CUH
#define LAMINAR_KERNELS_CUDA_ARRANGED_CUH

#include "kernels/cuda/gemv_lanes.cuh"
#include "kernels/cuda/ptx.cuh"

static constexpr uint32_t CHUNK_K = 256;
static constexpr uint32_t FRAGMENT_BYTES = 512;

/* What all have in common as sources. OWN: the format's struct, SCALES and HAS_MIN its. */
template <typename OWN, int SCALES, bool HAS_MIN> struct arranged_base {
    using format = OWN;
    static const bool IN_REGISTERS = true;
    float four_d[2][SCALES]; /* of the lane's group of the four that was begun */
    float four_m[2];

    __device__ __forceinline__ void begin_four(uint32_t four, uint32_t lane)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            auto own = static_cast<const OWN *>(this)->lane_scales(i, four, lane % 4);
#pragma unroll
            for (int s = 0; s < SCALES; s++)
                four_d[i][s] = own.d[s];
            four_m[i] = own.m;
        }
    }

    /* Of a group of that four, from the lane that has it. Whole warps. */
    __device__ __forceinline__ auto shared_scales(uint32_t i, uint32_t group, uint32_t lane) const
    {
        uint32_t from = (lane & ~3u) + group % 4;
        group_scales<OWN> scales;

#pragma unroll
        for (int s = 0; s < SCALES; s++)
            scales.d[s] = __shfl_sync(0xFFFFFFFFu, four_d[i][s], from);
        scales.m = HAS_MIN ? __shfl_sync(0xFFFFFFFFu, four_m[i], from) : 0.0f;
        return scales;
    }
};

static __device__ __forceinline__ void words_of(uint4 fragment, uint32_t (&w)[2][2])
{
    w[0][0] = fragment.x;
    w[1][0] = fragment.y;
    w[0][1] = fragment.z;
    w[1][1] = fragment.w;
}

static __device__ __forceinline__ uint32_t half_word(uint32_t word, uint32_t i)
{
    return i == 0 ? word & 0xFFFFu : word >> 16;
}

/* Blocks of 32 with four or five bits. */
template <lam_dtype DTYPE>
struct arranged : arranged_base<arranged<DTYPE>, 1, lanes_block<DTYPE>::MIN> {
    using lanes = lanes_block<DTYPE>;
    static constexpr uint32_t STEP_K = CHUNK_K;
    static constexpr uint32_t FIFTHS_AT = 2 * FRAGMENT_BYTES;
    static constexpr uint32_t SCALES_AT = FIFTHS_AT + (lanes::FIFTH ? 256 : 0);
    static constexpr uint32_t FOUR_BYTES = SCALES_AT + (lanes::MIN ? 256 : 128);
    static constexpr uint32_t CHUNK_BYTES = 2 * FOUR_BYTES;
    enum { SCALES = 1, HAS_MIN = lanes::MIN };
    static_assert(FOUR_BYTES == TILE * 4 * lanes::BYTES, "as many bytes as in the file");
    uint4 quants[4];
    uint2 fifths[2];
    uint2 heads[2]; /* d and minimum of each row; d of both */

    __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t lane)
    {
#pragma unroll
        for (uint32_t f = 0; f < 2; f++) {
            const uint8_t *four = chunk + f * FOUR_BYTES;
            quants[2 * f] = stream_16(four + lane * 16);
            quants[2 * f + 1] = stream_16(four + FRAGMENT_BYTES + lane * 16);
            if (lanes::FIFTH)
                fifths[f] = stream_8(four + FIFTHS_AT + lane * 8);
            if (lanes::MIN)
                heads[f] = stream_8(four + SCALES_AT + lane * 8);
            else
                heads[f].x = stream_4(four + SCALES_AT + lane * 4);
        }
    }

    __device__ __forceinline__ void fetch(uint32_t group, uint32_t, uint32_t (&w)[2][2]) const
    {
        uint4 two = quants[group / 2];
        uint2 fifth = fifths[group / 4];
        uint32_t shift = group % 4 * 8;

        lanes::unpack(group % 2 == 0 ? two.x : two.z, lanes::FIFTH ? fifth.x >> shift : 0, 4, w[0]);
        lanes::unpack(group % 2 == 0 ? two.y : two.w, lanes::FIFTH ? fifth.y >> shift : 0, 4, w[1]);
    }

    __device__ __forceinline__ group_scales<arranged> lane_scales(
        uint32_t i, uint32_t four, uint32_t) const
    {
        uint2 head = heads[four / 4];
        uint32_t own = lanes::MIN ? (i == 0 ? head.x : head.y) : half_word(head.x, i);

        return {
            {half_bits(own & 0xFFFFu) * lanes::FACTOR}, lanes::MIN ? half_bits(own >> 16) : 0.0f};
    }
};

template <> struct arranged<LAM_Q8_0> : arranged_base<arranged<LAM_Q8_0>, 1, false> {
    static constexpr uint32_t STEP_K = CHUNK_K;
    static constexpr uint32_t SCALES_AT = 4 * FRAGMENT_BYTES;
    static constexpr uint32_t FOUR_BYTES = SCALES_AT + 128;
    static constexpr uint32_t CHUNK_BYTES = 2 * FOUR_BYTES;
    enum { SCALES = 1, HAS_MIN = 0 };
    static_assert(FOUR_BYTES == TILE * 4 * 34, "as many bytes as in the file");
    uint4 quants[8];
    uint32_t d[2];

    __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t lane)
    {
#pragma unroll
        for (uint32_t f = 0; f < 2; f++) {
            const uint8_t *four = chunk + f * FOUR_BYTES;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++)
                quants[4 * f + j] = stream_16(four + j * FRAGMENT_BYTES + lane * 16);
            d[f] = stream_4(four + SCALES_AT + lane * 4);
        }
    }

    __device__ __forceinline__ void fetch(uint32_t group, uint32_t, uint32_t (&w)[2][2]) const
    {
        words_of(quants[group], w);
    }

    __device__ __forceinline__ group_scales<arranged> lane_scales(
        uint32_t i, uint32_t four, uint32_t) const
    {
        return {{half_bits(half_word(d[four / 4], i))}, 0};
    }
};

/* Q4_K, and Q5_K with FIFTH. */
template <lam_dtype DTYPE, bool FIFTH> struct arranged_k : arranged_base<arranged<DTYPE>, 1, true> {
    static constexpr uint32_t STEP_K = CHUNK_K;
    static constexpr uint32_t FIFTHS_AT = 4 * FRAGMENT_BYTES;
    static constexpr uint32_t SCALES_AT = FIFTHS_AT + (FIFTH ? FRAGMENT_BYTES : 0);
    static constexpr uint32_t CHUNK_BYTES = SCALES_AT + TILE * 16;
    enum { SCALES = 1, HAS_MIN = 1 };
    static_assert(CHUNK_BYTES == TILE * (FIFTH ? 176 : 144), "as many bytes as in the file");
    uint4 quants[4];
    uint4 fifths;
    uint4 heads[2];

    __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t lane)
    {
#pragma unroll
        for (uint32_t p = 0; p < 4; p++)
            quants[p] = stream_16(chunk + p * FRAGMENT_BYTES + lane * 16);
        if (FIFTH)
            fifths = stream_16(chunk + FIFTHS_AT + lane * 16);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
            heads[i] = stream_16(chunk + SCALES_AT + (lane / 4 + i * 8) * 16);
    }

    __device__ __forceinline__ void fetch(uint32_t group, uint32_t, uint32_t (&w)[2][2]) const
    {
        uint32_t bits[2][2];

        words_of(quants[group / 2], w);
        if (FIFTH)
            words_of(fifths, bits);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                w[i][half] = w[i][half] >> group % 2 * 4 & 0x0F0F0F0Fu;
                if (FIFTH)
                    w[i][half] |= moved(bits[i][half], group, 4) & 0x10101010u;
            }
        }
    }

    __device__ __forceinline__ group_scales<arranged<DTYPE>> lane_scales(
        uint32_t i, uint32_t four, uint32_t t) const
    {
        const uint32_t head[4] = {heads[i].x, heads[i].y, heads[i].z, heads[i].w};
        group_scales<arranged<DTYPE>> parts[2];

        k_scales(head, t, parts);
        return parts[four / 4];
    }
};

template <> struct arranged<LAM_Q4_K> : arranged_k<LAM_Q4_K, false> {
};
template <> struct arranged<LAM_Q5_K> : arranged_k<LAM_Q5_K, true> {
};

template <> struct arranged<LAM_Q6_K> : arranged_base<arranged<LAM_Q6_K>, 2, false> {
    static constexpr uint32_t STEP_K = CHUNK_K;
    static constexpr uint32_t HIGH_AT = 4 * FRAGMENT_BYTES;
    static constexpr uint32_t SCALES_AT = HIGH_AT + 2 * FRAGMENT_BYTES;
    static constexpr uint32_t D_AT = SCALES_AT + 256;
    static constexpr uint32_t CHUNK_BYTES = D_AT + 32;
    enum { SCALES = 2, HAS_MIN = 0 };
    static_assert(CHUNK_BYTES == TILE * 210, "as many bytes as in the file");
    uint4 low[4];
    uint4 high[2];
    uint2 scales;
    uint32_t d;

    __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t lane)
    {
#pragma unroll
        for (uint32_t p = 0; p < 4; p++)
            low[p] = stream_16(chunk + p * FRAGMENT_BYTES + lane * 16);
#pragma unroll
        for (uint32_t p = 0; p < 2; p++)
            high[p] = stream_16(chunk + HIGH_AT + p * FRAGMENT_BYTES + lane * 16);
        scales = stream_8(chunk + SCALES_AT + lane * 8);
        d = stream_4(chunk + D_AT + lane / 4 * 4);
    }

    __device__ __forceinline__ void fetch(uint32_t group, uint32_t, uint32_t (&w)[2][2]) const
    {
        uint32_t quarter = group % 4;
        uint32_t bits[2][2];

        words_of(low[group / 4 * 2 + quarter % 2], w);
        words_of(high[group / 4], bits);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
#pragma unroll
            for (uint32_t half = 0; half < 2; half++)
                w[i][half] = q6_k_word(w[i][half], bits[i][half], quarter);
        }
    }

    __device__ __forceinline__ group_scales<arranged> lane_scales(
        uint32_t i, uint32_t four, uint32_t) const
    {
        float all = half_bits(half_word(d, i)) * Q6_K_FACTOR;

        return q6_k_scales<arranged>(all, half_word(i == 0 ? scales.x : scales.y, four / 4));
    }
};

/* visit(dtype_tag<D>()) for every format that has an arranged order of its own. */
template <typename VISITOR> static int for_arranged(lam_dtype dtype, const VISITOR &visit)
{
    switch (dtype) {
    case LAM_Q4_0:
        return visit(dtype_tag<LAM_Q4_0>());
    case LAM_Q4_1:
        return visit(dtype_tag<LAM_Q4_1>());
    case LAM_Q5_0:
        return visit(dtype_tag<LAM_Q5_0>());
    case LAM_Q5_1:
        return visit(dtype_tag<LAM_Q5_1>());
    case LAM_Q8_0:
        return visit(dtype_tag<LAM_Q8_0>());
    case LAM_Q4_K:
        return visit(dtype_tag<LAM_Q4_K>());
    case LAM_Q5_K:
        return visit(dtype_tag<LAM_Q5_K>());
    case LAM_Q6_K:
        return visit(dtype_tag<LAM_Q6_K>());
    default:
        assert(!"a dtype that lam_cuda_arrange_takes");
        return cudaErrorInvalidValue;
    }
}

/* visit for all of them; the first error, or 0. */
template <typename VISITOR> static int for_every_arranged(const VISITOR &visit)
{
    int error = 0;

    for (int id = 0; id < LAM_DTYPE_END && error == 0; id++) {
        if (lam_dtype_known(static_cast<uint32_t>(id)) &&
            lam_dtype_info(static_cast<lam_dtype>(id))->block_elems > 1)
            error = for_arranged(static_cast<lam_dtype>(id), visit);
    }
    return error;
}

#endif
