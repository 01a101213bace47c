/*
 * gemv_int8: the arithmetic of gemv for the formats of blocks. Weights are small integers as they
 * lie. The activations of 32 columns become integers of 16 bits that share a scale, the largest of
 * them over 32600, and are split in two digits of 8 bits; sums of products of 32 columns are exact.
 * Then come the scales of weights and activations, in f32, and the sums of groups are added up in
 * f32. So what differs from the reference is the rounding of the activations, at most 2^-16 of the
 * largest of their group, and that of f32 sums.
 *
 * A SOURCE is what a lane has of rows g and g + 8 in a step, in whatever order the matrix lies: its
 * format; fetch() of both rows' words of a group; lane_scales() of group t of four; for more rows
 * begin_four() and shared_scales() of a group of it; IN_REGISTERS.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_INT8_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_INT8_CUH

#include <float.h>

#include "kernels/cuda/gemv.cuh"

/* Byte BYTE of four words, the first lowest. */
template <uint32_t BYTE> static __device__ __forceinline__ uint32_t pack_bytes(const int *words)
{
    const uint32_t pair = (BYTE + 4) << 4 | BYTE;
    uint32_t low =
        __byte_perm(static_cast<uint32_t>(words[0]), static_cast<uint32_t>(words[1]), pair);
    uint32_t high =
        __byte_perm(static_cast<uint32_t>(words[2]), static_cast<uint32_t>(words[3]), pair);

    return __byte_perm(low, high, 0x5410);
}

/* Scales of a group of a row, of each half if they differ, and its offset. */
template <typename FORMAT> struct group_scales {
    float d[FORMAT::SCALES];
    float m;
};

struct math_int8 {
    typedef uint2 operand;
    /* Of the integers; 127 * 256 + 127 would still fit. */
    static constexpr float RANGE = 32600.0f;
    enum { HAS_FACTS = 1 };

    /* The columns of a group that lane t has. */
    static __device__ __forceinline__ uint32_t first_of(uint32_t t)
    {
        return 4 * t;
    }

    static __device__ __forceinline__ uint32_t second_of(uint32_t t)
    {
        return 16 + 4 * t;
    }

    /* These eight: operands of the high digits (column 2r) and of the low ones (2r + 1); facts of
     * the group: scale and sum. Whole warps only: four lanes share a group. */
    static __device__ __forceinline__ void split(
        const float (&x)[8], uint2 &high, uint2 &low, float2 &facts)
    {
        int whole[8];
        int raised[8];
        uint32_t largest = 0; /* as bits: of numbers without a sign in the order of the numbers */
        int sum = 0;

#pragma unroll
        for (uint32_t i = 0; i < 8; i++) /* infinity is above all numbers, NaN above that */
            largest = max(largest, __float_as_uint(x[i]) & 0x7FFFFFFFu);
        largest = max(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 1));
        largest = max(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 2));
        float scale = __uint_as_float(largest) * (1.0f / RANGE);
        float inverse = scale >= FLT_MIN ? rough_inverse(scale) : 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            whole[i] = __float2int_rn(x[i] * inverse);
            raised[i] = whole[i] + 128;
            sum += whole[i];
        }
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
        /* whole = 256 * high + low, low a signed byte: the lowest byte of it as it is, */
        low = make_uint2(pack_bytes<0>(whole), pack_bytes<0>(whole + 4));
        /* and the next one of what that leaves. */
        high = make_uint2(pack_bytes<1>(raised), pack_bytes<1>(raised + 4));
        facts = make_float2(scale, scale * static_cast<float>(sum));
    }

    static __device__ __forceinline__ float joined(int high, int low)
    {
        return static_cast<float>(high * 256 + low);
    }

    /* Sums of products of a group: rows g and g + 8 by columns 2t and 2t + 1; where the halves of a
     * group have scales of their own, `second` has those of the second half. */
    template <typename FORMAT>
    static __device__ __forceinline__ void multiply(
        const uint32_t (&w)[2][2], uint2 x, int (&dots)[4], int (&second)[4])
    {
        if (FORMAT::SCALES == 1) {
            mma_s8(dots, w[0][0], w[1][0], w[0][1], w[1][1], x.x, x.y);
        } else {
            mma_s8(dots, w[0][0], w[1][0], x.x);
            mma_s8(second, w[0][1], w[1][1], x.y);
        }
    }

    /* What they are worth, of one row. */
    template <typename FORMAT>
    static __device__ __forceinline__ float term(const group_scales<FORMAT> &own, float2 facts,
        const int (&dots)[4], const int (&second)[4], uint32_t i)
    {
        float value = own.d[0] * facts.x * joined(dots[2 * i], dots[2 * i + 1]);

        if (FORMAT::SCALES == 2)
            value = fmaf(own.d[1] * facts.x, joined(second[2 * i], second[2 * i + 1]), value);
        return FORMAT::HAS_MIN ? fmaf(own.m, facts.y, value) : value;
    }

    /* A step of one row of activations: column pair r of the products is that of group r of four,
     * so that lane t has the sums of group t alone, and its scales. */
    template <typename SOURCE>
    static __device__ __forceinline__ void add_one(
        const gemv_args &args, SOURCE &from, uint32_t step, uint32_t lane, float (&sums)[2])
    {
        using format = typename SOURCE::format;
        const uint2 *x_all = reinterpret_cast<const uint2 *>(smem);

#pragma unroll
        for (uint32_t four = 0; four < format::STEP_K / GROUP_K; four += 4) {
            uint32_t first = step * (format::STEP_K / GROUP_K) + four;
            uint2 x = x_all[first * 8 + lane];
            float2 facts =
                *reinterpret_cast<const float2 *>(smem_at(args.facts_at + (first + lane % 4) * 8));
            int dots[4] = {};
            int second[4] = {};
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                uint32_t w[2][2];
                from.fetch(four + j, lane, w);
                bool mine = lane / 8 == j;
                multiply<format>(w, make_uint2(mine ? x.x : 0, mine ? x.y : 0), dots, second);
            }
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                group_scales<format> scales = from.lane_scales(i, four, lane % 4);
                float value = term<format>(scales, facts, dots, second, i);
                value += __shfl_xor_sync(0xFFFFFFFFu, value, 1);
                value += __shfl_xor_sync(0xFFFFFFFFu, value, 2);
                sums[i] += value;
            }
        }
    }

    /* A step of more rows: the lane's row of each column tile. Groups are added up by fours, as
     * add_one does. */
    template <typename SOURCE, int NT>
    static __device__ __forceinline__ void add_rows(
        const gemv_args &args, SOURCE &from, uint32_t step, uint32_t lane, float (&sums)[NT][2])
    {
        using format = typename SOURCE::format;

#pragma unroll(NT == 4 && !SOURCE::IN_REGISTERS ? 1 : 2) /* more would not fit into registers */
        for (uint32_t four = 0; four < format::STEP_K / GROUP_K; four += 4) {
            float pairs[NT][2][2];
            from.begin_four(four, lane);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                group_scales<format> group[2];
                uint32_t w[2][2];
                from.fetch(four + j, lane, w);
#pragma unroll
                for (uint32_t i = 0; i < 2; i++)
                    group[i] = from.shared_scales(i, four + j, lane);
#pragma unroll
                for (uint32_t nt = 0; nt < NT; nt++) {
                    int dots[4] = {};
                    int second[4] = {};
                    uint2 x;
                    float2 facts;
                    load_x<math_int8, false>(
                        args, step * (format::STEP_K / GROUP_K) + four + j, nt, lane, x, facts);
                    multiply<format>(w, x, dots, second);
#pragma unroll
                    for (uint32_t i = 0; i < 2; i++) {
                        float value = term<format>(group[i], facts, dots, second, i);
                        pairs[nt][i][j / 2] = j % 2 == 0 ? value : pairs[nt][i][j / 2] + value;
                        if (j == 3)
                            sums[nt][i] += pairs[nt][i][0] + pairs[nt][i][1];
                    }
                }
            }
        }
    }

    /* Rows g and g + 8 of a step in the ring. */
    template <typename FORMAT> struct slot_source {
        using format = FORMAT;
        static const bool IN_REGISTERS = false; /* then indices must be constants */
        row_bytes_at at[2];
        FORMAT own[2];   /* what a format keeps of a row from group to group */
        uint32_t scales; /* the warp's room */
        uint32_t left;   /* columns */

        __device__ __forceinline__ void begin_four(uint32_t, uint32_t)
        {
        }

        __device__ __forceinline__ void fetch(uint32_t group, uint32_t lane, uint32_t (&w)[2][2])
        {
            own[0].fetch(at[0], group, lane, w[0]);
            own[1].fetch(at[1], group, lane, w[1]);
        }

        __device__ __forceinline__ group_scales<FORMAT> lane_scales(
            uint32_t i, uint32_t four, uint32_t t) const
        {
            return own[i].lane_scales(at[i], four, t, left);
        }

        __device__ __forceinline__ group_scales<FORMAT> shared_scales(
            uint32_t i, uint32_t group, uint32_t lane) const
        {
            return FORMAT::shared_scales(at[i], scales, group, lane, i, left);
        }
    };

    /* Adds one step of a tile to the sums of rows g and g + 8. */
    template <typename FORMAT, int NT, bool ONE>
    static __device__ __forceinline__ void add_step(const gemv_args &args, const tile_rows &rows,
        uint32_t step, uint32_t slot, uint32_t scales, uint32_t lane, float (&sums)[NT][2])
    {
        slot_source<FORMAT> from;

        from.scales = scales;
        from.left = args.n_cols - step * FORMAT::STEP_K;
        for (uint32_t i = 0; i < 2; i++)
            from.at[i] = view_of(row_at<FORMAT>(args, rows, step, slot, lane / 4 + i * 8));
        if (ONE) {
            for (uint32_t i = 0; i < 2; i++)
                from.own[i].begin(from.at[i], lane % 4);
            add_one(args, from, step, lane, sums[0]);
            return;
        }
        FORMAT::prepare(from.at, scales, lane);
        add_rows<slot_source<FORMAT>, NT>(args, from, step, lane, sums);
    }
};

#endif
