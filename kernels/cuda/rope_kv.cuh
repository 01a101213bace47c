/* rope_kv: what rope.cu, kv_write.cu and rope_kv.cu do with one pair or value. */
#ifndef LAMINAR_KERNELS_CUDA_ROPE_KV_CUH
#define LAMINAR_KERNELS_CUDA_ROPE_KV_CUH

#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

enum : uint32_t { Q8_ELEMS = 32, Q8_BYTES = 34 };

/* Where pair i of a head's rope_dim values lies. */
static __device__ __forceinline__ uint2 pair_places(uint32_t i, uint32_t rope_dim, bool adjacent)
{
    return adjacent ? make_uint2(2 * i, 2 * i + 1) : make_uint2(i, i + rope_dim / 2);
}

/* (x, y) turned by the angle {cos, sin} at `angle`. */
static __device__ __forceinline__ float2 turned(float x, float y, const float *angle)
{
    return make_float2(fmaf(x, angle[0], -(y * angle[1])), fmaf(y, angle[0], x * angle[1]));
}

template <lam_dtype DTYPE> static __device__ __forceinline__ uint32_t cache_row_bytes(uint32_t d)
{
    return DTYPE == LAM_F32 ? d * 4 : DTYPE == LAM_F16 ? d * 2 : d / Q8_ELEMS * Q8_BYTES;
}

/* The row of (position, head) of the keys or values at `base`. */
template <lam_dtype DTYPE>
static __device__ __forceinline__ uint8_t *cache_row(
    const lam_kv_layer &kv, const lam_seq_rows &seq, void *base, uint32_t position, uint32_t head)
{
    size_t page = seq.pages[position / kv.page_tokens];
    size_t row = (page * kv.n_kv_heads + head) * kv.page_tokens + position % kv.page_tokens;

    return static_cast<uint8_t *>(base) + row * cache_row_bytes<DTYPE>(kv.head_dim);
}

/* Value i of a row of the cache, F32 or F16. */
template <lam_dtype DTYPE>
static __device__ __forceinline__ void store_value(uint8_t *row, uint32_t i, float value)
{
    if (DTYPE == LAM_F32)
        reinterpret_cast<float *>(row)[i] = value;
    else
        reinterpret_cast<__half *>(row)[i] = __float2half_rn(value);
}

#endif
