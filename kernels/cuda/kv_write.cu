/*
 * kv_write: keys and values of all rows into their pages.
 *
 * Bytes: 2 * K * d * (4 + bytes of the cache's dtype) per row: bound by memory for many rows, by
 * the launch for one. Rounding to F16 is to nearest even, beyond 65504 to infinity, as on the host.
 */
#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/seqs.cuh"

enum { BLOCK = 128 };

static __device__ __forceinline__ void store(float *at, float value)
{
    *at = value;
}

static __device__ __forceinline__ void store(__half *at, float value)
{
    *at = __float2half_rn(value);
}

/* Grid: (rows, sequences, key or value). */
template <typename ELEM>
static __global__ void __launch_bounds__(BLOCK)
    kv_write_rows(const seq_batch batch, const float *k, const float *v, const lam_kv_layer kv)
{
    const lam_seq_rows &seq = batch.seqs[blockIdx.y];
    uint32_t width = kv.n_kv_heads * kv.head_dim;

    let_successors_begin();
    wait_for_predecessors();
    if (blockIdx.x >= seq.n_rows)
        return;
    uint32_t position = seq.pos_begin + blockIdx.x;
    size_t page = seq.pages[position / kv.page_tokens];
    uint32_t slot = position % kv.page_tokens;
    const float *from =
        (blockIdx.z == 0 ? k : v) + static_cast<size_t>(seq.row_begin + blockIdx.x) * width;
    ELEM *to = static_cast<ELEM *>(blockIdx.z == 0 ? kv.k : kv.v);
    for (uint32_t i = threadIdx.x; i < width; i += BLOCK) {
        size_t head = page * kv.n_kv_heads + i / kv.head_dim;
        store(&to[(head * kv.page_tokens + slot) * kv.head_dim + i % kv.head_dim], from[i]);
    }
}

int lam_cuda_kv_write(CUstream_st *stream, const lam_cuda_chip *chip, const lam_kv_write_args *args)
{
    return for_seqs(
        args->seqs, args->n_seqs, [](const lam_seq_rows &) { return true; },
        [&](const seq_batch &batch, uint32_t n, uint32_t rows_max) -> int {
            dim3 grid(rows_max, n, 2);
            return launch(stream, chip,
                args->kv.dtype == LAM_F16 ? kv_write_rows<__half> : kv_write_rows<float>, grid,
                BLOCK, 0, batch, args->k, args->v, args->kv);
        });
}

int lam_cuda_prepare_kv_write(void)
{
    int error = load_kernel(kv_write_rows<float>);

    return error != 0 ? error : load_kernel(kv_write_rows<__half>);
}
