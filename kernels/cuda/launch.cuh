/*
 * launch: kernels that overlap. On chips from sm_90 on a kernel may begin while its predecessor in
 * the queue still runs: it may prepare, and fetch what no kernel writes (weights), and must call
 * wait_for_predecessors before it touches anything else, on every path. A kernel calls
 * let_successors_begin as early as it likes: a successor begins when all blocks of its predecessor
 * have called it or ended, and what it waits for is their end.
 *
 * On older chips both calls are nothing and kernels follow each other.
 */
#ifndef LAMINAR_KERNELS_CUDA_LAUNCH_CUH
#define LAMINAR_KERNELS_CUDA_LAUNCH_CUH

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ptx.cuh"

/* Queues kernel<<<grid, block, smem_bytes>>>(args...). Returns the runtime's number. */
template <typename... PARAMS, typename... ARGS>
static int launch(CUstream_st *stream, const lam_cuda_chip *chip, void (*kernel)(PARAMS...),
    dim3 grid, uint32_t block, uint32_t smem_bytes, const ARGS &...args)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute overlap = {};

    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = dim3(block);
    config.dynamicSmemBytes = smem_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = chip->architecture >= 90 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, PARAMS(args)...);
}

#endif
