/* silu: the function in swiglu. */
#ifndef LAMINAR_KERNELS_CUDA_SILU_CUH
#define LAMINAR_KERNELS_CUDA_SILU_CUH

static __device__ __forceinline__ float silu(float x)
{
    return x / (1.0f + expf(-x));
}

#endif
