/*
 * gemv_finish: what gemv does with the sums of its warps. They wait in shared memory until some
 * rounds are done, so that warps seldom wait for each other; then those that share a result are
 * added in order and stored: as they are, on top of what is there, as swiglu of gate and up, or as
 * queries, keys and values, turned and written to the cache. The bits are those of the operations
 * one by one.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_FINISH_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_FINISH_CUH

#include "kernels/cuda/gemv_args.cuh"
#include "kernels/cuda/rope_kv.cuh"
#include "kernels/cuda/silu.cuh"
#include "kernels/cuda/smem.cuh"

/* Sums of a warp, [round][warp][row][TILE]. */
template <int NT, bool ONE>
static __device__ __forceinline__ void keep_sums(
    const gemv_args &args, uint32_t round, const float (&sums)[NT][2])
{
    const uint32_t n_here = ONE ? 1 : NT * 4; /* rows of x */
    uint32_t lane = threadIdx.x % 32;
    float *parts = reinterpret_cast<float *>(smem_at(args.parts_at)) +
                   ((round & (args.parts_rounds - 1)) * N_WARPS + threadIdx.x / 32) * n_here * TILE;

#pragma unroll
    for (uint32_t nt = 0; nt < NT; nt++) {
        uint32_t t = nt * 4 + lane % 4;
        if (t < n_here) {
            parts[t * TILE + lane / 4] = sums[nt][0];
            parts[t * TILE + lane / 4 + 8] = sums[nt][1];
        }
    }
}

/* Result n of row t in the tile at `slot` of those kept: its slices in order. */
template <uint32_t N_HERE>
static __device__ __forceinline__ float sum_slices(
    const gemv_args &args, uint32_t slot, uint32_t t, uint32_t n)
{
    const float *part = reinterpret_cast<const float *>(smem_at(args.parts_at)) +
                        (slot * args.n_slices * N_HERE + t) * TILE + n;
    float sum = 0;

    for (uint32_t slice = 0; slice < args.n_slices; slice++)
        sum += part[slice * N_HERE * TILE];
    return sum;
}

/* Result `at` of a matrix as query, key or value; other: the other half of its pair. */
static __device__ __forceinline__ float place_result(
    const gemv_args &args, gemv_role role, uint32_t t, uint32_t at, float sum, float other)
{
    const uint32_t d = args.kv.head_dim;
    uint32_t within = at % d;

    if (role != ROLE_VALUE) {
        const float *angle = args.angles + static_cast<size_t>(t) * d + within / 2 * 2;
        float2 pair = within % 2 == 0 ? turned(sum, other, angle) : turned(other, sum, angle);
        sum = within % 2 == 0 ? pair.x : pair.y;
    }
    if (role == ROLE_QUERY)
        return sum;
    lam_seq_rows seq = {};
    seq.pages = args.places[t].pages;
    void *base = role == ROLE_KEY ? args.kv.k : args.kv.v;
    if (args.kv.dtype == LAM_F16)
        store_value<LAM_F16>(
            cache_row<LAM_F16>(args.kv, seq, base, args.places[t].position, at / d), within, sum);
    else
        store_value<LAM_F32>(
            cache_row<LAM_F32>(args.kv, seq, base, args.places[t].position, at / d), within, sum);
    return sum;
}

/* Stores the results of rounds [begin, end), which shared memory holds. Called by the whole block. */
template <uint32_t N_HERE>
static __device__ __forceinline__ void finish_rounds(
    const gemv_args &args, uint32_t begin, uint32_t end)
{
    const uint32_t n_rows = N_HERE == 1 ? 1 : args.n_rows;
    const uint32_t tiles = args.in_turn ? 2 : 1; /* that make one result */
    uint32_t n_items = (end - begin) * args.tiles_per_block / tiles * n_rows * TILE;

    __syncthreads();
    for (uint32_t item = threadIdx.x; item < n_items; item += BLOCK) {
        uint32_t n = item % TILE;
        uint32_t t = item / TILE % n_rows;
        uint32_t slot = item / TILE / n_rows * tiles;
        uint32_t tile = unit_of(args, begin + slot / args.tiles_per_block) * args.tiles_per_block +
                        slot % args.tiles_per_block;
        if (tile >= args.mats[MATS_MAX - 1].tiles_end)
            continue;
        tile_rows rows = find_tile(args, tile);
        if (n >= rows.n_valid)
            continue;
        float sum = sum_slices<N_HERE>(args, slot, t, n);
        float *out = rows.out + t * rows.out_stride + n;
        if (args.accumulate) {
            sum = *out + sum;
        } else if (rows.role == ROLE_GATE) {
            float up = sum_slices<N_HERE>(args, slot + 1, t, n);
            args.mats[1].out[t * args.mats[1].out_stride + rows.first + n] = up;
            sum = silu(sum) * up;
        } else if (rows.role != ROLE_PLAIN) {
            float other = sum_slices<N_HERE>(args, slot, t, n ^ 1);
            sum = place_result(args, rows.role, t, rows.first + n, sum, other);
        }
        *out = sum;
    }
    __syncthreads();
}

#endif
