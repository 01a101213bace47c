/*
 * gemv_bf16: the arithmetic of gemv for floats. Weights become one, two or three terms of BF16,
 * which is exact for BF16, F16 and F32; an activation becomes two, which have 16 bits together.
 * So what differs from the reference is the activations' 17th bit, and the rounding of f32 sums.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_BF16_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_BF16_CUH

#include <cuda_bf16.h>

#include "kernels/cuda/gemv.cuh"

/* x in two BF16: its first 8 bits and the next 8. NaN and infinity stay. */
static __device__ __forceinline__ void split_float(float x, uint32_t &high, uint32_t &low)
{
    __nv_bfloat16 whole = __float2bfloat16_rn(x);
    __nv_bfloat16 rest = __float2bfloat16_rn(x - __bfloat162float(whole));

    high = __bfloat16_as_ushort(whole);
    low = __bfloat16_as_ushort(rest);
}

struct math_bf16 {
    typedef uint4 operand;
    enum { HAS_FACTS = 0 };

    /* The columns of a group that lane t has. */
    static __device__ __forceinline__ uint32_t first_of(uint32_t t)
    {
        return 8 * t;
    }

    static __device__ __forceinline__ uint32_t second_of(uint32_t t)
    {
        return 8 * t + 4;
    }

    /* These eight: operands of the whole (column 2r) and of the rest (2r + 1). */
    static __device__ __forceinline__ void split(
        const float (&x)[8], uint4 &high, uint4 &low, float2 &)
    {
        uint32_t whole[8];
        uint32_t rest[8];

#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            split_float(x[i], whole[i], rest[i]);
        high = make_uint4(whole[0] | whole[1] << 16, whole[2] | whole[3] << 16,
            whole[4] | whole[5] << 16, whole[6] | whole[7] << 16);
        low = make_uint4(rest[0] | rest[1] << 16, rest[2] | rest[3] << 16, rest[4] | rest[5] << 16,
            rest[6] | rest[7] << 16);
    }

    /* Adds one step of a tile to the sums of rows g and g + 8, for the lane's row of each column
     * tile. */
    template <typename FORMAT, int NT, bool ONE>
    static __device__ __forceinline__ void add_step(const gemv_args &args, const tile_rows &rows,
        uint32_t step, uint32_t slot, uint32_t scales, uint32_t lane, float (&sums)[NT][2])
    {
        uint32_t left = args.n_cols - step * FORMAT::STEP_K;
        row_bytes_at at[2];
        float total[NT][4] = {};

        (void)scales;
        for (uint32_t i = 0; i < 2; i++)
            at[i] = view_of(row_at<FORMAT>(args, rows, step, slot, lane / 4 + i * 8));
#pragma unroll(NT == 4 ? 2 : 4) /* more would not fit into registers */
        for (uint32_t group = 0; group < FORMAT::STEP_K / GROUP_K; group++) {
            uint32_t w[2][FORMAT::TERMS][4];
#pragma unroll
            for (uint32_t i = 0; i < 2; i++)
                FORMAT::fetch(at[i], group, lane, left, w[i]);
#pragma unroll
            for (uint32_t nt = 0; nt < NT; nt++) {
                uint4 x;
                float2 facts;
                load_x<math_bf16, ONE>(
                    args, step * (FORMAT::STEP_K / GROUP_K) + group, nt, lane, x, facts);
#pragma unroll
                for (int i = 0; i < FORMAT::TERMS; i++) {
                    uint32_t first[4] = {w[0][i][0], w[1][i][0], w[0][i][1], w[1][i][1]};
                    uint32_t second[4] = {w[0][i][2], w[1][i][2], w[0][i][3], w[1][i][3]};
                    mma_bf16(total[nt], first, x.x, x.y);
                    mma_bf16(total[nt], second, x.z, x.w);
                }
            }
        }
#pragma unroll
        for (uint32_t nt = 0; nt < NT; nt++) {
            sums[nt][0] += total[nt][0] + total[nt][1];
            sums[nt][1] += total[nt][2] + total[nt][3];
        }
    }
};

#endif
