/*
 * kv_write: keys and values of all rows into their pages.
 *
 * Bytes: 2 * K * d * (4 + bytes of the cache's dtype) per row: bound by memory for many rows, by
 * the launch for one. A thread has one value; for Q8_0 a warp has one block. The bytes are those of
 * the host: rounding to F16 is to nearest even, beyond 65504 to infinity; Q8_0 is kv.h's.
 */
#include <float.h>

#include "kernels/cuda/rope_kv.cuh"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/seqs.cuh"

enum : uint32_t { BLOCK = 256 };

/* Whole warps: i is a multiple of 32 in lane 0. */
static __device__ __forceinline__ void store_q8_0(uint8_t *row, uint32_t i, float value)
{
    uint8_t *block = row + i / Q8_ELEMS * Q8_BYTES;
    bool finite = __all_sync(0xFFFFFFFFu, fabsf(value) <= FLT_MAX);
    float largest = fabsf(value);

#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, step));
    float d = largest / 127.0f;
    uint32_t half = finite ? __half_as_ushort(__float2half_rn(d)) : 0x7E00u;
    float inverse = finite && half != 0 ? 1.0f / d : 0;
    int q = inverse > 0 ? static_cast<int>(rintf(value * inverse)) : 0;
    block[2 + i % Q8_ELEMS] = static_cast<uint8_t>(q);
    if (i % Q8_ELEMS == 0)
        *reinterpret_cast<uint16_t *>(block) = static_cast<uint16_t>(half);
}

/* Grid: (rows, sequences, pieces of the keys, then of the values). */
template <lam_dtype DTYPE>
static __global__ void __launch_bounds__(BLOCK)
    kv_write_rows(const seq_batch batch, const float *k, const float *v, const lam_kv_layer kv)
{
    const lam_seq_rows &seq = batch.seqs[blockIdx.y];
    uint32_t width = kv.n_kv_heads * kv.head_dim;
    bool is_value = blockIdx.z >= gridDim.z / 2;
    uint32_t i = (is_value ? blockIdx.z - gridDim.z / 2 : blockIdx.z) * BLOCK + threadIdx.x;

    let_successors_begin();
    wait_for_predecessors();
    if (blockIdx.x >= seq.n_rows || i >= width)
        return;
    const float *from =
        (is_value ? v : k) + static_cast<size_t>(seq.row_begin + blockIdx.x) * width;
    uint8_t *row = cache_row<DTYPE>(
        kv, seq, is_value ? kv.v : kv.k, seq.pos_begin + blockIdx.x, i / kv.head_dim);
    if (DTYPE == LAM_Q8_0)
        store_q8_0(row, i % kv.head_dim, from[i]);
    else
        store_value<DTYPE>(row, i % kv.head_dim, from[i]);
}

int lam_cuda_kv_write(CUstream_st *stream, const lam_cuda_chip *chip, const lam_kv_write_args *args)
{
    uint32_t n_pieces = div_up(args->kv.n_kv_heads * args->kv.head_dim, BLOCK);
    auto *kernel = args->kv.dtype == LAM_F16    ? kv_write_rows<LAM_F16>
                   : args->kv.dtype == LAM_Q8_0 ? kv_write_rows<LAM_Q8_0>
                                                : kv_write_rows<LAM_F32>;

    return for_seqs(
        args->seqs, args->n_seqs, [](const lam_seq_rows &) { return true; },
        [&](const seq_batch &batch, uint32_t n, uint32_t rows_max) -> int {
            dim3 grid(rows_max, n, 2 * n_pieces);
            return launch(stream, chip, kernel, grid, BLOCK, 0, batch, args->k, args->v, args->kv);
        });
}

int lam_cuda_prepare_kv_write(void)
{
    int error = load_kernel(kv_write_rows<LAM_F32>);

    error = error != 0 ? error : load_kernel(kv_write_rows<LAM_F16>);
    return error != 0 ? error : load_kernel(kv_write_rows<LAM_Q8_0>);
}
