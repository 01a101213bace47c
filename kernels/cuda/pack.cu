/*
 * pack: what gemm multiplies: rows and weights in 16 bits, ld values apart, zeros behind n_cols.
 *
 * Weights: n_rows * (packed row + 2 * ld) bytes, bound by memory; a tile stays in the L2 cache of
 * large chips until gemm reads it. Every weight is unpacked in f32 as the reference does and
 * rounded once. Why F16 and not BF16: it has 11 bits instead of 8, which makes a product's error
 * 64 times smaller in the KL divergence of the logits; what its range lacks is given back by
 * LAM_CUDA_ROWS_SCALE on the activations. A value beyond the range becomes an infinity, which
 * shows.
 */
#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/unpack.cuh"

enum { BLOCK = 256 };

static __device__ __forceinline__ void store8(__half *at, const float *w)
{
    __half2 pairs[4];

    for (int i = 0; i < 4; i++)
        pairs[i] = __floats2half2_rn(w[2 * i], w[2 * i + 1]);
    *reinterpret_cast<uint4 *>(at) = *reinterpret_cast<const uint4 *>(pairs);
}

/* A thread: eight values. Grid: (ld / 8 / BLOCK, rows). */
static __global__ void __launch_bounds__(BLOCK)
    pack_rows(const float *x, uint32_t n_cols, uint32_t ld, __half *out)
{
    uint32_t k = (blockIdx.x * BLOCK + threadIdx.x) * 8;
    float w[8];

    let_successors_begin();
    wait_for_predecessors();
    if (k >= ld)
        return;
    x += static_cast<size_t>(blockIdx.y) * n_cols;
    for (uint32_t i = 0; i < 8; i++)
        w[i] = k + i < n_cols ? x[k + i] * LAM_CUDA_ROWS_SCALE : 0.0f;
    store8(out + static_cast<size_t>(blockIdx.y) * ld + k, w);
}

template <lam_dtype DTYPE>
static __global__ void __launch_bounds__(BLOCK)
    pack_weights(const uint8_t *weight, uint32_t n_cols, uint32_t ld, __half *out)
{
    uint32_t k = (blockIdx.x * BLOCK + threadIdx.x) * 8;
    const uint8_t *row = weight + blockIdx.y * row_bytes<DTYPE>(n_cols);
    float w[8] = {0, 0, 0, 0, 0, 0, 0, 0};

    let_successors_begin();
    wait_for_predecessors();
    if (k >= ld)
        return;
    if (k + 8 <= n_cols) {
        unpack8<DTYPE>(row, k, w);
    } else {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            w[i] = k + i < n_cols ? unpack1<DTYPE>(row, k + i) : 0.0f;
    }
    store8(out + static_cast<size_t>(blockIdx.y) * ld + k, w);
}

int lam_cuda_pack_rows(CUstream_st *stream, const lam_cuda_chip *chip, const float *x,
    uint32_t n_rows, uint32_t n_cols, uint32_t ld, void *out)
{
    dim3 grid(div_up(ld, 8 * BLOCK), n_rows);

    return launch(
        stream, chip, pack_rows, grid, BLOCK, 0, x, n_cols, ld, static_cast<__half *>(out));
}

int lam_cuda_pack_weights(CUstream_st *stream, const lam_cuda_chip *chip, const void *weight,
    lam_dtype dtype, uint32_t n_rows, uint32_t n_cols, uint32_t ld, void *out)
{
    dim3 grid(div_up(ld, 8 * BLOCK), n_rows);

    return for_dtype(dtype, [&](auto tag) -> int {
        return launch(stream, chip, pack_weights<decltype(tag)::value>, grid, BLOCK, 0,
            static_cast<const uint8_t *>(weight), n_cols, ld, static_cast<__half *>(out));
    });
}

int lam_cuda_prepare_pack(void)
{
    int error = load_kernel(pack_rows);

    if (error != 0)
        return error;
    return for_every_dtype(
        [](auto tag) -> int { return load_kernel(pack_weights<decltype(tag)::value>); });
}
