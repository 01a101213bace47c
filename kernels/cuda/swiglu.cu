/*
 * swiglu: out = gate / (1 + exp(-gate)) * up.
 *
 * Bytes: 12 per value, 10 where the result is rounded for a product: bound by memory for many rows
 * (0.98 of an H100's), by the launch for one. exp in full precision.
 */
#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/silu.cuh"

enum : uint32_t { BLOCK = 256, PER_THREAD = 4 };

/* rounded: where the result goes in 16 bits instead of out, or NULL. */
static __global__ void __launch_bounds__(BLOCK)
    swiglu_values(const lam_swiglu_args args, __half *rounded)
{
    uint64_t first = static_cast<uint64_t>(blockIdx.x) * (BLOCK * PER_THREAD) + threadIdx.x;
    float gate[PER_THREAD];
    float up[PER_THREAD];

    let_successors_begin();
    wait_for_predecessors();
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; j++) { /* all on their way before the first is used */
        uint64_t i = first + j * BLOCK;
        gate[j] = i < args.n ? args.gate[i] : 0.0f;
        up[j] = i < args.n ? args.up[i] : 0.0f;
    }
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; j++) {
        uint64_t i = first + j * BLOCK;
        float value = silu(gate[j]) * up[j];
        if (i >= args.n)
            continue;
        if (rounded == NULL)
            args.out[i] = value;
        else
            rounded[i] = __float2half_rn(value * LAM_CUDA_ROWS_SCALE);
    }
}

int lam_cuda_swiglu_rounded(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_swiglu_args *args, void *rounded)
{
    dim3 grid(div_up(args->n, BLOCK * PER_THREAD));

    return launch(
        stream, chip, swiglu_values, grid, BLOCK, 0, *args, static_cast<__half *>(rounded));
}

int lam_cuda_swiglu(CUstream_st *stream, const lam_cuda_chip *chip, const lam_swiglu_args *args)
{
    return lam_cuda_swiglu_rounded(stream, chip, args, NULL);
}

int lam_cuda_prepare_swiglu(void)
{
    return load_kernel(swiglu_values);
}
