/* norm: the factor of rms_norm, where a product of few rows makes its own activations. */
#ifndef LAMINAR_KERNELS_CUDA_NORM_CUH
#define LAMINAR_KERNELS_CUDA_NORM_CUH

#include <stdint.h>

/* Sums that a row is dealt out to, and how many columns of each are loaded at once. */
enum : uint32_t { NORM_SUMS = 512, NORM_AHEAD = 8 };

static __device__ __forceinline__ float warp_sum(float value)
{
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
    return value;
}

/* 1 / sqrt(mean(x^2) + eps) by a block of BLOCK threads, the bits of rms_norm.cu. scratch: NORM_SUMS
 * / 32 floats of shared memory, free again behind the caller's next barrier. */
template <uint32_t BLOCK>
static __device__ __forceinline__ float norm_factor(
    const float *x, uint32_t n_cols, float eps, float *scratch)
{
    const uint32_t n = NORM_SUMS / BLOCK; /* sums of a thread */
    float sums[n] = {};

    for (uint32_t begin = 0; begin < n_cols; begin += NORM_SUMS * NORM_AHEAD) {
        float values[NORM_AHEAD][n];
#pragma unroll
        for (uint32_t j = 0; j < NORM_AHEAD; j++) {
#pragma unroll
            for (uint32_t s = 0; s < n; s++) {
                uint32_t i = begin + j * NORM_SUMS + s * BLOCK + threadIdx.x;
                values[j][s] = i < n_cols ? x[i] : 0.0f;
            }
        }
#pragma unroll
        for (uint32_t j = 0; j < NORM_AHEAD; j++) {
#pragma unroll
            for (uint32_t s = 0; s < n; s++)
                sums[s] = fmaf(values[j][s], values[j][s], sums[s]);
        }
    }
#pragma unroll
    for (uint32_t s = 0; s < n; s++) {
        sums[s] = warp_sum(sums[s]);
        if (threadIdx.x % 32 == 0)
            scratch[(s * BLOCK + threadIdx.x) / 32] = sums[s];
    }
    __syncthreads();
    uint32_t lane = threadIdx.x % 32;
    float sum = warp_sum(lane < NORM_SUMS / 32 ? scratch[lane] : 0.0f);
    return 1.0f / sqrtf(sum / static_cast<float>(n_cols) + eps);
}

#endif
