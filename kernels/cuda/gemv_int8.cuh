/*
 * gemv_int8: the arithmetic of gemv for the formats of blocks. Weights are small integers as they
 * lie. The activations of 32 columns become integers of 16 bits that share a scale, the largest of
 * them over 32600, and are split in two digits of 8 bits; sums of products of 32 columns are exact.
 * Then come the scales of weights and activations, in f32, and the sums of groups are added up in
 * f32. So what differs from the reference is the rounding of the activations, at most 2^-16 of the
 * largest of their group, and that of f32 sums.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_INT8_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_INT8_CUH

#include <float.h>

#include "kernels/cuda/gemv.cuh"

/* Which columns of a group the fourth t of lanes holds in its two words. */
enum order {
    ORDER_HALVES, /* 4t.. and 16 + 4t..: the two half bytes of 4 neighbouring bytes */
    ORDER_BYTES,  /* 8t.. and 8t + 4..: 8 neighbouring bytes */
};

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

/* 1 / x within 2^-22. */
static __device__ __forceinline__ float rough_inverse(float x)
{
    float inverse;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    return inverse;
}

template <order ORDER> struct math_int8 {
    typedef uint2 operand;
    /* Of the integers; 127 * 256 + 127 would still fit. */
    static constexpr float RANGE = 32600.0f;
    enum { HAS_FACTS = 1 };

    /* The eight columns of a row that lane t has in the group at k: operands of the high digits
     * (column 2r) and of the low ones (2r + 1); facts of the group: scale and sum. Whole warps
     * only: four lanes share a group. */
    static __device__ __forceinline__ void split(const gemv_args &args, const float *row,
        uint32_t k, uint32_t t, uint2 &high, uint2 &low, float2 &facts)
    {
        const bool bytes = ORDER == ORDER_BYTES;
        float x[8];
        int whole[8];
        int raised[8];
        uint32_t largest = 0; /* as bits: of numbers without a sign in the order of the numbers */
        int sum = 0;

        load_eight(args, row, k + (bytes ? 8 * t : 4 * t), k + (bytes ? 8 * t + 4 : 16 + 4 * t), x);
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

    /* Adds one group to the sums of rows g and g + 8. */
    template <typename FORMAT>
    static __device__ __forceinline__ void add_group(
        const FORMAT (&own)[2], const uint32_t (&w)[2][2], uint2 x, float2 facts, float (&sums)[2])
    {
        int dots[4] = {};

        if (FORMAT::SCALES == 1) {
            mma_s8(dots, w[0][0], w[1][0], w[0][1], w[1][1], x.x, x.y);
        } else { /* a scale for each half of the group */
            mma_s8(dots, w[0][0], w[1][0], x.x);
#pragma unroll
            for (uint32_t i = 0; i < 2; i++)
                sums[i] =
                    fmaf(own[i].d[0] * facts.x, joined(dots[2 * i], dots[2 * i + 1]), sums[i]);
            dots[0] = dots[1] = dots[2] = dots[3] = 0;
            mma_s8(dots, w[0][1], w[1][1], x.y);
        }
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            float scale = own[i].d[FORMAT::SCALES - 1] * facts.x;
            sums[i] = fmaf(scale, joined(dots[2 * i], dots[2 * i + 1]), sums[i]);
            if (FORMAT::HAS_MIN)
                sums[i] = fmaf(own[i].m, facts.y, sums[i]);
        }
    }

    /* Adds one step of a tile to the sums of rows g and g + 8, for the lane's row of each column
     * tile. */
    template <typename FORMAT, int NT, bool ONE>
    static __device__ __forceinline__ void add_step(const gemv_args &args, const tile_rows &rows,
        uint32_t step, uint32_t slot, uint32_t scales, uint32_t lane, float (&sums)[NT][2])
    {
        uint32_t left = args.n_cols - step * FORMAT::STEP_K;
        row_bytes_at at[2];
        FORMAT own[2]; /* what a format keeps of a row from group to group */

        for (uint32_t i = 0; i < 2; i++)
            at[i] = view_of(row_at<FORMAT>(args, rows, step, slot, lane / 4 + i * 8));
        FORMAT::prepare(at, scales, lane);
#pragma unroll(NT == 4 ? 2 : 8) /* more would not fit into registers */
        for (uint32_t group = 0; group < FORMAT::STEP_K / GROUP_K; group++) {
            uint32_t w[2][2];
#pragma unroll
            for (uint32_t i = 0; i < 2; i++)
                own[i].fetch(at[i], scales, group, lane, i, left, w[i]);
#pragma unroll
            for (uint32_t nt = 0; nt < NT; nt++) {
                uint2 x;
                float2 facts;
                load_x<math_int8, ONE>(
                    args, step * (FORMAT::STEP_K / GROUP_K) + group, nt, lane, x, facts);
                add_group<FORMAT>(own, w, x, facts, sums[nt]);
            }
        }
    }
};

#endif
