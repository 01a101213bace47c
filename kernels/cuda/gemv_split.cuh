/*
 * gemv_split: the activations of gemv in digits, as MATH (gemv_int8.cuh, gemv_bf16.cuh) wants them,
 * on the way through their norm if they have one. Those of one row are made by every block, in its
 * shared memory; those of more rows by a kernel before, in the workspace, in the order in which
 * lanes want them.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_SPLIT_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_SPLIT_CUH

#include "kernels/cuda/gemv_args.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/smem.cuh"

/* A row of activations; NULL: all 0. factor: of its norm. */
struct x_row {
    const float *x;
    float *normed; /* NULL: need not be stored */
    float factor;
};

/* Columns [k, k + 4) of a row, 0 behind its end. */
static __device__ __forceinline__ float4 load_four(
    const gemv_args &args, const float *row, uint32_t k)
{
    float4 four = make_float4(0, 0, 0, 0);

    if (row == NULL || k >= args.n_cols)
        return four;
    if (args.x_whole)
        return *reinterpret_cast<const float4 *>(row + k);
    four.x = row[k];
    four.y = k + 1 < args.n_cols ? row[k + 1] : 0.0f;
    four.z = k + 2 < args.n_cols ? row[k + 2] : 0.0f;
    four.w = k + 3 < args.n_cols ? row[k + 3] : 0.0f;
    return four;
}

/* The same of the norm's weights, which are read only. */
static __device__ __forceinline__ float4 load_weights(const gemv_args &args, uint32_t k)
{
    if (args.x_whole && k < args.n_cols)
        return __ldg(reinterpret_cast<const float4 *>(args.norm_weight + k));
    return load_four(args, args.norm_weight, k);
}

static __device__ __forceinline__ void store_four(
    const gemv_args &args, float *row, uint32_t k, float4 four)
{
    if (args.x_whole && k < args.n_cols) {
        *reinterpret_cast<float4 *>(row + k) = four;
        return;
    }
    const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        if (k + i < args.n_cols)
            row[k + i] = values[i];
    }
}

/* Four activations behind their norm. */
static __device__ __forceinline__ float4 norm_four(
    const gemv_args &args, const x_row &row, uint32_t k, float4 x)
{
    if (args.norm_weight == NULL || row.x == NULL)
        return x;
    float4 weight = load_weights(args, k);
    x.x = x.x * row.factor * weight.x;
    x.y = x.y * row.factor * weight.y;
    x.z = x.z * row.factor * weight.z;
    x.w = x.w * row.factor * weight.w;
    if (row.normed != NULL)
        store_four(args, row.normed, k, x);
    return x;
}

/* Splits four columns from `k` and four from `k2` of a row. Whole warps, lane t of four. */
template <typename MATH>
static __device__ __forceinline__ void split_eight(const gemv_args &args, const x_row &row,
    uint32_t k, uint32_t t, float4 first, float4 second, typename MATH::operand &high,
    typename MATH::operand &low, float2 &facts)
{
    first = norm_four(args, row, k + MATH::first_of(t), first);
    second = norm_four(args, row, k + MATH::second_of(t), second);
    const float x[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
    MATH::split(x, high, low, facts);
}

/* Weights of the norm on their way into the cache, by the whole block. */
static __device__ __forceinline__ void fetch_norm(const gemv_args &args)
{
    const uint32_t line = 32; /* floats */

    if (args.norm_weight == NULL)
        return;
    for (uint32_t k = threadIdx.x * line; k < args.n_cols; k += BLOCK * line)
        prefetch_line(args.norm_weight + k);
}

/* Splits the one row into shared memory. */
template <typename MATH> static __device__ __forceinline__ void split_here(const gemv_args &args)
{
    using operand = typename MATH::operand;
    const uint32_t ahead = 4; /* items of a thread that are loaded at once */
    uint32_t n_items = args.n_groups * 4;
    uint32_t n_whole = (n_items + 31) / 32 * 32;
    x_row row = {args.x, blockIdx.x == 0 ? args.normed : NULL, 0};

    if (args.norm_weight != NULL)
        row.factor = norm_factor<BLOCK>(
            args.x, args.n_cols, args.eps, reinterpret_cast<float *>(smem_at(args.parts_at)));
    for (uint32_t begin = threadIdx.x; begin < n_whole; begin += ahead * BLOCK) {
        float4 first[ahead];
        float4 second[ahead];
#pragma unroll
        for (uint32_t j = 0; j < ahead; j++) {
            uint32_t i = begin + j * BLOCK;
            first[j] = load_four(args, row.x, i / 4 * GROUP_K + MATH::first_of(i % 4));
            second[j] = load_four(args, row.x, i / 4 * GROUP_K + MATH::second_of(i % 4));
        }
#pragma unroll
        for (uint32_t j = 0; j < ahead; j++) {
            uint32_t i = begin + j * BLOCK;
            operand high, low;
            float2 facts;
            if (i >= n_whole)
                break;
            split_eight<MATH>(
                args, row, i / 4 * GROUP_K, i % 4, first[j], second[j], high, low, facts);
            if (i >= n_items)
                continue;
            reinterpret_cast<operand *>(smem)[i / 4 * 8 + i % 4] = high;
            reinterpret_cast<operand *>(smem)[i / 4 * 8 + 4 + i % 4] = low;
            if (MATH::HAS_FACTS && i % 4 == 0)
                *reinterpret_cast<float2 *>(smem_at(args.facts_at + i / 4 * 8)) = facts;
        }
    }
    __syncthreads();
}

/* Splits the rows of a call. Grid: (groups * 4 / BLOCK, rows rounded up to the column tiles). */
template <typename MATH>
static __global__ void __launch_bounds__(BLOCK) split_rows(const gemv_args args)
{
    __shared__ float scratch[NORM_SUMS / 32];
    uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    uint32_t group = i / 4;
    uint32_t nt = blockIdx.y / 4;
    uint32_t r = blockIdx.y % 4;
    size_t at = static_cast<size_t>(blockIdx.y) * args.n_cols;
    typename MATH::operand high, low;
    x_row row = {};
    float2 facts;

    let_successors_begin();
    fetch_norm(args);
    wait_for_predecessors();
    if (blockIdx.y < args.n_rows) {
        row.x = args.x + at;
        row.normed = args.normed != NULL ? args.normed + at : NULL;
        if (args.norm_weight != NULL)
            row.factor = norm_factor<BLOCK>(row.x, args.n_cols, args.eps, scratch);
    }
    split_eight<MATH>(args, row, group * GROUP_K, i % 4,
        load_four(args, row.x, group * GROUP_K + MATH::first_of(i % 4)),
        load_four(args, row.x, group * GROUP_K + MATH::second_of(i % 4)), high, low, facts);
    if (group >= args.n_groups)
        return;
    typename MATH::operand *to = static_cast<typename MATH::operand *>(args.split) +
                                 (nt * args.n_groups + group) * 32 + i % 4;
    to[2 * r * 4] = high;
    to[(2 * r + 1) * 4] = low;
    if (MATH::HAS_FACTS && i % 4 == 0)
        args.facts[(nt * args.n_groups + group) * 4 + r] = facts;
}

#endif
