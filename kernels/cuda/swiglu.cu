/*
 * swiglu: out = gate / (1 + exp(-gate)) * up.
 *
 * Bytes: 12 per value: bound by memory for many rows, by the launch for one. exp in full precision.
 */
#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

enum { BLOCK = 256 };

static __global__ void __launch_bounds__(BLOCK) swiglu_values(const lam_swiglu_args args)
{
    uint64_t i = static_cast<uint64_t>(blockIdx.x) * BLOCK + threadIdx.x;

    let_successors_begin();
    wait_for_predecessors();
    if (i < args.n)
        args.out[i] = args.gate[i] / (1.0f + expf(-args.gate[i])) * args.up[i];
}

int lam_cuda_swiglu(CUstream_st *stream, const lam_cuda_chip *chip, const lam_swiglu_args *args)
{
    return launch(stream, chip, swiglu_values, dim3(div_up(args->n, BLOCK)), BLOCK, 0, *args);
}

int lam_cuda_prepare_swiglu(void)
{
    return load_kernel(swiglu_values);
}
