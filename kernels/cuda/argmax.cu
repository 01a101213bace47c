/*
 * argmax: one block per row, one launch for all of them.
 *
 * Bytes: 4 * n_cols per row, one comparison per value: bound by what one multiprocessor reads of
 * the second level cache, where the product before has left the row. A thread has eight loads of
 * 16 bytes under way (the 1 of __launch_bounds__: registers for that, rather than a second block).
 *
 * The result is the largest pair in the order (value up, column down), which no order of
 * comparisons changes.
 */
#include <float.h>
#include <math.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

enum : uint32_t { BLOCK = 1024, WARPS = BLOCK / 32, AHEAD = 8 };

struct best {
    float value;
    uint32_t column;
};

/* A thread sees its columns in ascending order: among equals the first one stays. A NaN is above
 * nothing. */
static __device__ __forceinline__ void look_at(best &mine, float value, uint32_t column)
{
    value = value > FLT_MAX ? FLT_MAX : value;
    if (value > mine.value)
        mine = {value, column};
}

/* Of the warp's lanes, in all of them. */
static __device__ __forceinline__ best best_of_warp(best mine)
{
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        best other = {__shfl_xor_sync(0xFFFFFFFFu, mine.value, lanes),
            __shfl_xor_sync(0xFFFFFFFFu, mine.column, lanes)};
        if (other.value > mine.value || (other.value == mine.value && other.column < mine.column))
            mine = other;
    }
    return mine;
}

static __global__ void __launch_bounds__(BLOCK, 1) argmax_rows(const lam_argmax_args args)
{
    __shared__ best bests[WARPS];
    const float *x = args.x + static_cast<size_t>(blockIdx.x) * args.n_cols;
    /* Columns before the first 16-byte address. */
    uint32_t n_before =
        min(static_cast<uint32_t>(-(reinterpret_cast<uintptr_t>(x) / 4) & 3), args.n_cols);
    const float4 *quads = reinterpret_cast<const float4 *>(x + n_before);
    uint32_t n_quads = (args.n_cols - n_before) / 4;
    uint32_t behind = n_before + n_quads * 4 + threadIdx.x;
    best mine = {-INFINITY, 0};

    let_successors_begin();
    wait_for_predecessors();
    if (threadIdx.x < n_before)
        look_at(mine, x[threadIdx.x], threadIdx.x);
    for (uint32_t first = threadIdx.x; first < n_quads; first += BLOCK * AHEAD) {
        float4 ahead[AHEAD];
        /* All on their way before the first is used; beyond the end the last one again. */
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++)
            ahead[j] = __ldcg(quads + min(first + j * BLOCK, n_quads - 1));
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++) {
            uint32_t column = n_before + min(first + j * BLOCK, n_quads - 1) * 4;
            look_at(mine, ahead[j].x, column);
            look_at(mine, ahead[j].y, column + 1);
            look_at(mine, ahead[j].z, column + 2);
            look_at(mine, ahead[j].w, column + 3);
        }
    }
    if (behind < args.n_cols)
        look_at(mine, x[behind], behind);
    mine = best_of_warp(mine);
    if (threadIdx.x % 32 == 0)
        bests[threadIdx.x / 32] = mine;
    __syncthreads();
    mine = best_of_warp(bests[threadIdx.x % 32]);
    if (threadIdx.x == 0)
        args.out[blockIdx.x] = static_cast<int32_t>(mine.column);
}

int lam_cuda_argmax(CUstream_st *stream, const lam_cuda_chip *chip, const lam_argmax_args *args)
{
    return launch(stream, chip, argmax_rows, dim3(args->n_rows), BLOCK, 0, *args);
}

int lam_cuda_prepare_argmax(void)
{
    return load_kernel(argmax_rows);
}
