/*
 * attention_any: attention for what attention.cu does not take: F32 caches, odd head sizes, small
 * pages. One block per (row, head) in f32, 128 positions at a time with a running maximum and sum;
 * bound by f32 arithmetic and by the cache's bytes once per row and head. Meant to be right, not
 * fast.
 */
#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/seqs.cuh"

enum { BLOCK = 128, WARPS = BLOCK / 32, D_MAX = 256, PER_THREAD = D_MAX / BLOCK };

/* Value i of a row of the cache. */
template <lam_dtype DTYPE>
static __device__ __forceinline__ float load(const uint8_t *row, uint32_t i)
{
    if (DTYPE == LAM_F32)
        return reinterpret_cast<const float *>(row)[i];
    if (DTYPE == LAM_F16)
        return __half2float(reinterpret_cast<const __half *>(row)[i]);
    const uint8_t *block = row + i / 32 * 34;
    return __half2float(*reinterpret_cast<const __half *>(block)) *
           static_cast<float>(static_cast<int8_t>(block[2 + i % 32]));
}

/* Reduces over the block; every thread gets the result. */
template <typename COMBINE>
static __device__ __forceinline__ float over_block(
    float value, float *parts, const COMBINE &combine)
{
    for (int step = 16; step > 0; step /= 2)
        value = combine(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = parts[0];
    for (int warp = 1; warp < WARPS; warp++)
        value = combine(value, parts[warp]);
    __syncthreads();
    return value;
}

template <lam_dtype DTYPE>
static __device__ __forceinline__ const uint8_t *kv_row(const lam_kv_layer &kv,
    const lam_seq_rows &seq, const void *base, uint32_t head, uint32_t position)
{
    size_t page = seq.pages[position / kv.page_tokens];
    size_t row = (page * kv.n_kv_heads + head) * kv.page_tokens + position % kv.page_tokens;
    uint32_t row_bytes = DTYPE == LAM_F32   ? kv.head_dim * 4
                         : DTYPE == LAM_F16 ? kv.head_dim * 2
                                            : kv.head_dim / 32 * 34;

    return static_cast<const uint8_t *>(base) + row * row_bytes;
}

/* Grid: (rows, heads, sequences). */
template <lam_dtype DTYPE>
static __global__ void __launch_bounds__(BLOCK)
    attend_row(const seq_batch batch, const lam_attention_args args)
{
    __shared__ float q[D_MAX];
    __shared__ float weights[BLOCK];
    __shared__ float parts[WARPS];
    const lam_seq_rows &seq = batch.seqs[blockIdx.z];
    const lam_kv_layer &kv = args.kv;
    uint32_t kv_head = blockIdx.y / (args.n_heads / kv.n_kv_heads);
    float max = -INFINITY;
    float sum = 0;
    float value[PER_THREAD] = {};

    let_successors_begin();
    wait_for_predecessors();
    if (blockIdx.x >= seq.n_rows)
        return;
    uint32_t last = seq.pos_begin + blockIdx.x;
    size_t at =
        (static_cast<size_t>(seq.row_begin + blockIdx.x) * args.n_heads + blockIdx.y) * kv.head_dim;
    for (uint32_t i = threadIdx.x; i < kv.head_dim; i += BLOCK)
        q[i] = args.q[at + i];
    __syncthreads();
    for (uint32_t begin = 0; begin <= last; begin += BLOCK) {
        uint32_t position = begin + threadIdx.x;
        float score = -INFINITY;
        if (position <= last) {
            const uint8_t *key = kv_row<DTYPE>(kv, seq, kv.k, kv_head, position);
            score = 0;
            for (uint32_t i = 0; i < kv.head_dim; i++)
                score = fmaf(q[i], load<DTYPE>(key, i), score);
            score *= args.scale;
        }
        float new_max =
            over_block(score, parts, [](float a, float b) { return a > b || isnan(a) ? a : b; });
        new_max = max > new_max || isnan(max) ? max : new_max;
        float weight = position <= last ? expf(score - new_max) : 0.0f;
        float scale = expf(max - new_max);
        weights[threadIdx.x] = weight;
        sum = sum * scale + over_block(weight, parts, [](float a, float b) { return a + b; });
        max = new_max;
        uint32_t n = min(last - begin + 1, static_cast<uint32_t>(BLOCK));
        for (uint32_t j = 0; j < PER_THREAD; j++) {
            uint32_t i = threadIdx.x + j * BLOCK;
            value[j] *= scale;
            for (uint32_t p = 0; p < n && i < kv.head_dim; p++)
                value[j] = fmaf(weights[p],
                    load<DTYPE>(kv_row<DTYPE>(kv, seq, kv.v, kv_head, begin + p), i), value[j]);
        }
        __syncthreads();
    }
    for (uint32_t j = 0; j < PER_THREAD; j++) {
        if (threadIdx.x + j * BLOCK < kv.head_dim)
            args.out[at + threadIdx.x + j * BLOCK] = value[j] / sum;
    }
}

int lam_cuda_attention_any(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_attention_args *args)
{
    auto *kernel = args->kv.dtype == LAM_F16    ? attend_row<LAM_F16>
                   : args->kv.dtype == LAM_Q8_0 ? attend_row<LAM_Q8_0>
                                                : attend_row<LAM_F32>;

    return for_seqs(
        args->seqs, args->n_seqs, [](const lam_seq_rows &) { return true; },
        [&](const seq_batch &batch, uint32_t n, uint32_t rows_max) -> int {
            dim3 grid(rows_max, args->n_heads, n);
            return launch(stream, chip, kernel, grid, BLOCK, 0, batch, *args);
        });
}

int lam_cuda_prepare_attention_any(void)
{
    int error = load_kernel(attend_row<LAM_F32>);

    error = error != 0 ? error : load_kernel(attend_row<LAM_F16>);
    return error != 0 ? error : load_kernel(attend_row<LAM_Q8_0>);
}
