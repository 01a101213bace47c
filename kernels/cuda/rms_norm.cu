/*
 * rms_norm: one block per row.
 *
 * Bytes: 8 * n_cols per row, 6 where the result is rounded for a product (x stays in registers up to
 * 4096 columns), 4 operations per value: bound by memory for many rows, by latency (about 3 us) for
 * one. The order of the sum depends on n_cols alone; norm.cuh has the same.
 */
#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.cuh"

/* Columns of a thread that stay in registers; those behind are read twice. */
enum : uint32_t { BLOCK = NORM_SUMS, WARPS = BLOCK / 32, KEPT = 8 };

/* One value of the result, to out or, where there is such a place, in 16 bits to `rounded`. */
static __device__ __forceinline__ void store(float *out, __half *rounded, uint32_t i, float value)
{
    if (rounded == NULL)
        out[i] = value;
    else
        rounded[i] = __float2half_rn(value * LAM_CUDA_ROWS_SCALE);
}

static __global__ void __launch_bounds__(BLOCK)
    rms_norm_rows(const lam_rms_norm_args args, __half *rounded)
{
    __shared__ float parts[WARPS];
    const float *x = args.x + static_cast<size_t>(blockIdx.x) * args.n_cols;
    float *out = args.out + static_cast<size_t>(blockIdx.x) * args.n_cols;
    __half *to = rounded == NULL ? NULL : rounded + static_cast<size_t>(blockIdx.x) * args.n_cols;
    float kept[KEPT];
    float weight[KEPT];
    float sum = 0;

    let_successors_begin();
#pragma unroll
    for (uint32_t j = 0; j < KEPT; j++) { /* weights are written by no kernel */
        uint32_t i = threadIdx.x + j * BLOCK;
        weight[j] = i < args.n_cols ? args.weight[i] : 0.0f;
    }
    wait_for_predecessors();
#pragma unroll
    for (uint32_t j = 0; j < KEPT; j++) {
        uint32_t i = threadIdx.x + j * BLOCK;
        kept[j] = i < args.n_cols ? x[i] : 0.0f;
    }
#pragma unroll
    for (uint32_t j = 0; j < KEPT; j++)
        sum = fmaf(kept[j], kept[j], sum);
    for (uint32_t i = threadIdx.x + KEPT * BLOCK; i < args.n_cols; i += BLOCK)
        sum = fmaf(x[i], x[i], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(threadIdx.x % 32 < WARPS ? parts[threadIdx.x % 32] : 0.0f);
    float scale = 1.0f / sqrtf(sum / static_cast<float>(args.n_cols) + args.eps);
#pragma unroll
    for (uint32_t j = 0; j < KEPT; j++) {
        uint32_t i = threadIdx.x + j * BLOCK;
        if (i < args.n_cols)
            store(out, to, i, kept[j] * scale * weight[j]);
    }
    for (uint32_t i = threadIdx.x + KEPT * BLOCK; i < args.n_cols; i += BLOCK)
        store(out, to, i, x[i] * scale * args.weight[i]);
}

int lam_cuda_rms_norm(CUstream_st *stream, const lam_cuda_chip *chip, const lam_rms_norm_args *args)
{
    return lam_cuda_rms_norm_rounded(stream, chip, args, NULL);
}

int lam_cuda_rms_norm_rounded(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_rms_norm_args *args, void *rounded)
{
    return launch(stream, chip, rms_norm_rows, dim3(args->n_rows), BLOCK, 0, *args,
        static_cast<__half *>(rounded));
}

int lam_cuda_prepare_rms_norm(void)
{
    return load_kernel(rms_norm_rows);
}
