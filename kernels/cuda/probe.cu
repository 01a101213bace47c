/*
 * probe: reads a range of device memory once, for measuring what the memory itself can do. Bytes:
 * the range; bound by memory. The sums are stored only if they are a number that random data never
 * gives, so that the compiler cannot drop the loads.
 */
#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

enum { BLOCK = 512, PER_SM = 4, UNROLL = 8 };

static __global__ void __launch_bounds__(BLOCK) probe_sums(uint4 *from, uint64_t n)
{
    uint64_t stride = static_cast<uint64_t>(gridDim.x) * BLOCK;
    uint64_t i = static_cast<uint64_t>(blockIdx.x) * BLOCK + threadIdx.x;
    uint32_t sum = 0;

    let_successors_begin();
    wait_for_predecessors();
    for (; i + (UNROLL - 1) * stride < n; i += UNROLL * stride) {
        uint4 four[UNROLL];
#pragma unroll
        for (int j = 0; j < UNROLL; j++)
            four[j] = __ldcs(&from[i + j * stride]);
#pragma unroll
        for (int j = 0; j < UNROLL; j++)
            sum |= four[j].x ^ four[j].y ^ four[j].z ^ four[j].w;
    }
    for (; i < n; i += stride)
        sum |= from[i].x ^ from[i].y ^ from[i].z ^ from[i].w;
    if (sum == 0x9E3779B9u)
        from[0].x = sum;
}

int lam_cuda_probe(CUstream_st *stream, const lam_cuda_chip *chip, void *from, uint64_t bytes)
{
    return launch(stream, chip, probe_sums, dim3(chip->n_sms * PER_SM), BLOCK, 0,
        static_cast<uint4 *>(from), bytes / 16);
}

int lam_cuda_prepare_probe(void)
{
    return load_kernel(probe_sums);
}
