/*
 * rms_norm: one block per row.
 *
 * Bytes: 8 * n_cols per row (x stays in registers up to 4096 columns), 4 operations per value: bound
 * by memory for many rows, by latency (about 3 us) for one. The order of the sum depends on n_cols
 * alone.
 */
#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

/* Columns of a thread that stay in registers; those behind are read twice. */
enum : uint32_t { BLOCK = 512, WARPS = BLOCK / 32, KEPT = 8 };

static __device__ __forceinline__ float warp_sum(float value)
{
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
    return value;
}

static __global__ void __launch_bounds__(BLOCK) rms_norm_rows(const lam_rms_norm_args args)
{
    __shared__ float parts[WARPS];
    const float *x = args.x + static_cast<size_t>(blockIdx.x) * args.n_cols;
    float *out = args.out + static_cast<size_t>(blockIdx.x) * args.n_cols;
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
            out[i] = kept[j] * scale * weight[j];
    }
    for (uint32_t i = threadIdx.x + KEPT * BLOCK; i < args.n_cols; i += BLOCK)
        out[i] = x[i] * scale * args.weight[i];
}

int lam_cuda_rms_norm(CUstream_st *stream, const lam_cuda_chip *chip, const lam_rms_norm_args *args)
{
    return launch(stream, chip, rms_norm_rows, dim3(args->n_rows), BLOCK, 0, *args);
}

int lam_cuda_prepare_rms_norm(void)
{
    return load_kernel(rms_norm_rows);
}
