/*
 * gemv: out[t, n] (+)= sum_k x[t, k] * w[n, k] for 1 to 16 rows t, on tensor cores: the product of
 * decoding.
 *
 * Bytes: the packed matrix, once: bound by memory. Operations: 1 to 2 instructions per weight to
 * fetch and unpack it, and one mma for 16 weights of a lane and 4 rows. On an H100 (3083 GB/s) one
 * row of BF16 runs at 0.80 to 0.94 of the memory's speed, Q8_0 at 0.54 to 0.73, Q4_K at 0.37 to
 * 0.65, small matrices worst: each launch has about 4 us that are not streaming.
 *
 * How. Two ways of multiplying share everything else: gemv_int8.cuh for the formats of blocks,
 * gemv_bf16.cuh for floats. In both an activation is split in two digits, which lie in neighbouring
 * columns of the right operand, so that an mma takes 4 rows; weights are exact.
 *
 * A warp makes 16 neighbouring results (a "tile") and walks along the rows of the matrix in steps
 * of STEP_K columns. The bytes of a step come through cp.async into the warp's own ring of STAGES
 * slots in aligned pieces of 16 bytes, whatever the alignment of the rows, and begin to come while
 * the kernel before still runs. The long axis is dealt out to up to 8 warps of a block, step by
 * step; their sums are added in order at the end. Which warp has which step depends on n_cols and
 * the format alone: a row's bits do not depend on the other rows of the call, nor on the other
 * matrices.
 *
 * The split activations of one row lie in shared memory and are made by every block; those of more
 * rows are made by a kernel before, into the workspace, in the order in which lanes want them.
 *
 * Up to 15 bytes before and after a row are read, never used.
 *
 * A FORMAT has: math (which of the two), STEP_K, STEP_BYTES, ROW_SLOT and SLOT (bytes of a row and
 * of a tile in the ring), STAGES, SCALE_BYTES (a warp's room for unpacked scales), ALIGN, place()
 * of a piece in its row, prepare() once per step, fetch() of a lane's part of a group.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_CUH

#include <stdint.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/smem.cuh"

enum : uint32_t {
    TILE = 16, /* results of a warp */
    MATS_MAX = 3,
    N_WARPS = 8,
    BLOCK = N_WARPS * 32,
    GROUP_K = 32, /* columns whose activations are split together */
};

struct gemv_args {
    struct {
        const uint8_t *weight;
        float *out;
        uint64_t out_stride;
        uint32_t n_out;
        uint32_t tiles_end; /* tiles of this matrix and those before it */
    } mats[MATS_MAX];
    const float *x;
    void *split;   /* [rows / 4][groups][lane] of math::operand, when n_rows > 1 */
    float2 *facts; /* [rows / 4][groups][4]: scale and sum of the activations, of int8 */
    uint64_t row_bytes;
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_steps;
    uint32_t n_groups; /* of all steps, also those behind n_cols */
    uint32_t n_slices; /* warps of a tile */
    uint32_t tiles_per_block;
    uint32_t n_units;  /* of tiles_per_block tiles */
    uint32_t facts_at; /* offsets in shared memory */
    uint32_t scales_at;
    uint32_t parts_at;
    uint32_t ring_at;
    bool accumulate;
    bool x_whole; /* four columns of x at a multiple of 4 are one aligned load */
};

/* Where a tile comes from and goes to. */
struct tile_rows {
    const uint8_t *weight;
    float *out;
    uint64_t out_stride;
    uint32_t n_valid;
};

static __device__ __forceinline__ tile_rows find_tile(const gemv_args &args, uint32_t tile)
{
    int m = tile < args.mats[0].tiles_end ? 0 : tile < args.mats[1].tiles_end ? 1 : 2;
    uint32_t begin = m == 0 ? 0 : m == 1 ? args.mats[0].tiles_end : args.mats[1].tiles_end;
    uint32_t n = (tile - begin) * TILE;
    tile_rows rows;

    rows.weight = args.mats[m].weight + n * args.row_bytes;
    rows.out = args.mats[m].out + n;
    rows.out_stride = args.mats[m].out_stride;
    rows.n_valid = args.mats[m].n_out - n < TILE ? args.mats[m].n_out - n : TILE;
    return rows;
}

/* Row i of the tile; rows behind the end repeat the last, their results are not stored. */
static __device__ __forceinline__ const uint8_t *row_of(
    const gemv_args &args, const tile_rows &rows, uint32_t i)
{
    return rows.weight + (i < rows.n_valid ? i : rows.n_valid - 1) * args.row_bytes;
}

/* Begins to copy a step of two rows, n_bytes of each, into the slot at `to` (a shared address).
 * Four lanes share a row. */
template <typename FORMAT>
static __device__ __forceinline__ void begin_step(
    const uint8_t *const (&from)[2], uint32_t n_bytes, uint32_t to, uint32_t lane)
{
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t row = lane / 4 + i * 8;
        uint32_t skew = FORMAT::ALIGN == 16 ? 0 : reinterpret_cast<uintptr_t>(from[i]) % 16;
#pragma unroll
        for (uint32_t piece = lane % 4; piece < FORMAT::ROW_SLOT / 16; piece += 4) {
            if (piece * 16 < n_bytes + skew)
                copy_async_16(to + row * FORMAT::ROW_SLOT + FORMAT::place(row, piece) * 16,
                    from[i] - skew + piece * 16);
        }
    }
}

/* A warp's place in its stream of steps, STAGES - 1 ahead of what it works on. */
struct reader {
    const uint8_t *from[2]; /* rows g and g + 8 of the tile */
    uint32_t unit;          /* tiles of a block that are done together */
    uint32_t step;
    uint32_t stage;
    bool inside; /* the tile is there */
};

/* Offset in the slot of the bytes of row i. */
template <typename FORMAT>
static __device__ __forceinline__ uint32_t row_at(
    const gemv_args &args, const tile_rows &rows, uint32_t step, uint32_t slot, uint32_t i)
{
    uint32_t skew = 0;

    if (FORMAT::ALIGN != 16)
        skew = static_cast<uint32_t>((reinterpret_cast<uintptr_t>(row_of(args, rows, i)) +
                                         static_cast<uint64_t>(step) * FORMAT::STEP_BYTES) %
                                     16);
    return slot + i * FORMAT::ROW_SLOT + skew;
}

/* Right operands of a group for the 4 rows of column tile `nt`, and the facts of the lane's row. */
template <typename MATH, bool ONE>
static __device__ __forceinline__ void load_x(const gemv_args &args, uint32_t group, uint32_t nt,
    uint32_t lane, typename MATH::operand &x, float2 &facts)
{
    using operand = typename MATH::operand;

    facts = make_float2(0, 0);
    if (ONE) {
        x = {};
        if (lane < 8) /* the columns of one row; those of the other three are 0 */
            x = reinterpret_cast<const operand *>(smem)[group * 8 + lane];
        if (MATH::HAS_FACTS)
            facts = *reinterpret_cast<const float2 *>(smem_at(args.facts_at + group * 8));
    } else {
        x = static_cast<const operand *>(args.split)[(nt * args.n_groups + group) * 32 + lane];
        if (MATH::HAS_FACTS)
            facts = args.facts[(nt * args.n_groups + group) * 4 + lane % 4];
    }
}

/* The tiles' sums of all slices, in order, into out. Called by the whole block. */
template <int NT, bool ONE>
static __device__ __forceinline__ void finish_tiles(
    const gemv_args &args, uint32_t round, uint32_t first_tile, const float (&sums)[NT][2])
{
    const uint32_t n_here = ONE ? 1 : NT * 4; /* rows of x */
    uint32_t lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    float *parts = reinterpret_cast<float *>(smem_at(args.parts_at)) +
                   round % 2 * (N_WARPS * TILE * n_here); /* two in turn: one barrier suffices */

#pragma unroll
    for (uint32_t nt = 0; nt < NT; nt++) {
        uint32_t t = nt * 4 + lane % 4;
        if (t < n_here) {
            parts[(warp * n_here + t) * TILE + lane / 4] = sums[nt][0];
            parts[(warp * n_here + t) * TILE + lane / 4 + 8] = sums[nt][1];
        }
    }
    __syncthreads();
    uint32_t n_rows = ONE ? 1 : args.n_rows;
    for (uint32_t at = threadIdx.x; at < args.tiles_per_block * n_rows * TILE; at += BLOCK) {
        uint32_t n = at % TILE;
        uint32_t t = at / TILE % n_rows;
        uint32_t i = at / TILE / n_rows;
        uint32_t tile = first_tile + i;
        if (tile >= args.mats[MATS_MAX - 1].tiles_end)
            continue;
        float sum = 0;
        for (uint32_t slice = 0; slice < args.n_slices; slice++)
            sum += parts[((i * args.n_slices + slice) * n_here + t) * TILE + n];
        tile_rows rows = find_tile(args, tile);
        if (n < rows.n_valid) {
            float *out = rows.out + t * rows.out_stride + n;
            *out = args.accumulate ? *out + sum : sum;
        }
    }
}

/* Columns [first, first + 4) and [second, second + 4) of a row of activations; 0 behind its end and
 * for no row. */
static __device__ __forceinline__ void load_eight(
    const gemv_args &args, const float *row, uint32_t first, uint32_t second, float (&x)[8])
{
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t column = half == 0 ? first : second;
        float4 four = make_float4(0, 0, 0, 0);
        if (args.x_whole) {
            if (row != NULL && column < args.n_cols)
                four = *reinterpret_cast<const float4 *>(row + column);
        } else if (row != NULL) {
            four.x = column < args.n_cols ? row[column] : 0.0f;
            four.y = column + 1 < args.n_cols ? row[column + 1] : 0.0f;
            four.z = column + 2 < args.n_cols ? row[column + 2] : 0.0f;
            four.w = column + 3 < args.n_cols ? row[column + 3] : 0.0f;
        }
        x[half * 4] = four.x;
        x[half * 4 + 1] = four.y;
        x[half * 4 + 2] = four.z;
        x[half * 4 + 3] = four.w;
    }
}

/* Splits the one row into shared memory. */
template <typename MATH> static __device__ __forceinline__ void split_here(const gemv_args &args)
{
    using operand = typename MATH::operand;
    uint32_t n_items = args.n_groups * 4;

    for (uint32_t i = threadIdx.x; i < (n_items + 31) / 32 * 32; i += BLOCK) {
        operand high, low;
        float2 facts;
        MATH::split(args, args.x, i / 4 * GROUP_K, i % 4, high, low, facts);
        if (i >= n_items)
            continue;
        reinterpret_cast<operand *>(smem)[i / 4 * 8 + i % 4] = high;
        reinterpret_cast<operand *>(smem)[i / 4 * 8 + 4 + i % 4] = low;
        if (MATH::HAS_FACTS && i % 4 == 0)
            *reinterpret_cast<float2 *>(smem_at(args.facts_at + i / 4 * 8)) = facts;
    }
    __syncthreads();
}

/* Begins to copy the reader's next step into the ring at `ring`, if there is one. */
template <typename FORMAT>
static __device__ __forceinline__ void begin_next(
    const gemv_args &args, reader &ahead, uint32_t ring, uint32_t slice, uint32_t lane)
{
    if (ahead.step == slice) { /* a new tile */
        uint32_t tile = ahead.unit * args.tiles_per_block + threadIdx.x / 32 / args.n_slices;
        ahead.inside = ahead.unit < args.n_units && tile < args.mats[MATS_MAX - 1].tiles_end;
        tile_rows rows = find_tile(args, ahead.inside ? tile : 0);
        for (uint32_t i = 0; i < 2; i++)
            ahead.from[i] = row_of(args, rows, lane / 4 + i * 8) + slice * FORMAT::STEP_BYTES;
    }
    if (ahead.inside) {
        uint32_t left = static_cast<uint32_t>(args.row_bytes) - ahead.step * FORMAT::STEP_BYTES;
        begin_step<FORMAT>(ahead.from, min(left, static_cast<uint32_t>(FORMAT::STEP_BYTES)),
            ring + ahead.stage * FORMAT::SLOT, lane);
    }
    copy_async_commit();
    ahead.stage = ahead.stage + 1 == FORMAT::STAGES ? 0 : ahead.stage + 1;
    ahead.step += args.n_slices;
    for (uint32_t i = 0; i < 2; i++)
        ahead.from[i] += args.n_slices * FORMAT::STEP_BYTES;
    if (ahead.step >= args.n_steps) {
        ahead.step = slice;
        ahead.unit += gridDim.x;
    }
}

/* Grid: any number of blocks; they share the units in rounds. */
template <typename FORMAT, int NT, bool ONE>
static __global__ void __launch_bounds__(BLOCK, NT == 1 ? 3 : 2) gemv_tiles(const gemv_args args)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    uint32_t slice = warp % args.n_slices;
    uint32_t tile_in_unit = warp / args.n_slices;
    uint32_t ring = args.ring_at + warp * (FORMAT::STAGES * FORMAT::SLOT);
    uint32_t ring_address = static_cast<uint32_t>(__cvta_generic_to_shared(smem_at(ring)));
    uint32_t scales = args.scales_at + warp * FORMAT::SCALE_BYTES;
    uint32_t stage = 0;
    uint32_t round = 0;
    reader ahead = {{}, blockIdx.x, slice, 0, false};

    let_successors_begin();
    for (uint32_t i = 0; i < FORMAT::STAGES - 1; i++)
        begin_next<FORMAT>(args, ahead, ring_address, slice, lane);
    wait_for_predecessors();
    if (ONE)
        split_here<typename FORMAT::math>(args);
    for (uint32_t unit = blockIdx.x; unit < args.n_units; unit += gridDim.x, round++) {
        uint32_t tile = unit * args.tiles_per_block + tile_in_unit;
        bool inside = tile < args.mats[MATS_MAX - 1].tiles_end;
        tile_rows rows = find_tile(args, inside ? tile : 0);
        float sums[NT][2] = {};
        for (uint32_t step = slice; step < args.n_steps; step += args.n_slices) {
            copy_async_wait<FORMAT::STAGES - 2>();
            __syncwarp();
            begin_next<FORMAT>(args, ahead, ring_address, slice, lane);
            if (inside)
                FORMAT::math::template add_step<FORMAT, NT, ONE>(
                    args, rows, step, ring + stage * FORMAT::SLOT, scales, lane, sums);
            stage = stage + 1 == FORMAT::STAGES ? 0 : stage + 1;
        }
        finish_tiles<NT, ONE>(args, round, unit * args.tiles_per_block, sums);
    }
}

/* Splits the rows of a call. Grid: (groups * 4 / BLOCK, rows rounded up to the column tiles). */
template <typename MATH>
static __global__ void __launch_bounds__(BLOCK) split_rows(const gemv_args args)
{
    uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    uint32_t group = i / 4;
    uint32_t nt = blockIdx.y / 4;
    uint32_t r = blockIdx.y % 4;
    typename MATH::operand high, low;
    float2 facts;

    let_successors_begin();
    wait_for_predecessors();
    const float *row =
        blockIdx.y < args.n_rows ? args.x + static_cast<size_t>(blockIdx.y) * args.n_cols : NULL;
    MATH::split(args, row, group * GROUP_K, i % 4, high, low, facts);
    if (group >= args.n_groups)
        return;
    typename MATH::operand *to = static_cast<typename MATH::operand *>(args.split) +
                                 (nt * args.n_groups + group) * 32 + i % 4;
    to[2 * r * 4] = high;
    to[(2 * r + 1) * 4] = low;
    if (MATH::HAS_FACTS && i % 4 == 0)
        args.facts[(nt * args.n_groups + group) * 4 + r] = facts;
}

/* Lays out shared memory; returns its size. */
template <typename FORMAT, int NT, bool ONE> static uint32_t gemv_smem(gemv_args *args)
{
    using math = typename FORMAT::math;

    args->facts_at = ONE ? args->n_groups * 8 * sizeof(typename math::operand) : 0;
    args->scales_at = args->facts_at + (ONE && math::HAS_FACTS ? (args->n_groups + 1) / 2 * 16 : 0);
    args->parts_at = args->scales_at + N_WARPS * FORMAT::SCALE_BYTES;
    args->ring_at = args->parts_at + 2 * N_WARPS * TILE * (ONE ? 1 : NT * 4) * 4;
    return args->ring_at + N_WARPS * FORMAT::STAGES * FORMAT::SLOT;
}

template <typename FORMAT, int NT, bool ONE>
static int launch_gemv(CUstream_st *stream, const lam_cuda_chip *chip, gemv_args args)
{
    const uint32_t per_sm_max = NT == 1 ? 3 : 2; /* as the launch bounds say */
    uint32_t bytes = gemv_smem<FORMAT, NT, ONE>(&args);
    uint32_t fits = chip->sm_smem_bytes / (bytes + 1024);
    uint32_t per_sm = fits < 1 ? 1 : fits > per_sm_max ? per_sm_max : fits;
    uint32_t n_rounds = div_up(args.n_units, chip->n_sms * per_sm);
    int error = 0;

    assert(bytes <= chip->block_smem_bytes);
    if (!ONE)
        error = launch(stream, chip, split_rows<typename FORMAT::math>,
            dim3(div_up(args.n_groups * 4, BLOCK), NT * 4), BLOCK, 0, args);
    if (error != 0)
        return error;
    return launch(stream, chip, gemv_tiles<FORMAT, NT, ONE>, dim3(div_up(args.n_units, n_rounds)),
        BLOCK, bytes, args);
}

template <typename FORMAT>
static int gemv_of_format(CUstream_st *stream, const lam_cuda_chip *chip, gemv_args args)
{
    args.n_steps = div_up(args.n_cols, FORMAT::STEP_K);
    args.n_groups = args.n_steps * (FORMAT::STEP_K / GROUP_K);
    args.n_slices = args.n_steps >= 8 ? 8 : args.n_steps >= 4 ? 4 : args.n_steps >= 2 ? 2 : 1;
    args.tiles_per_block = N_WARPS / args.n_slices;
    args.n_units = div_up(args.mats[MATS_MAX - 1].tiles_end, args.tiles_per_block);
    args.facts = reinterpret_cast<float2 *>(
        static_cast<typename FORMAT::math::operand *>(args.split) + 4 * args.n_groups * 32);
    if (args.n_rows == 1 && gemv_smem<FORMAT, 1, true>(&args) <= chip->block_smem_bytes)
        return launch_gemv<FORMAT, 1, true>(stream, chip, args);
    if (args.n_rows <= 4)
        return launch_gemv<FORMAT, 1, false>(stream, chip, args);
    if (args.n_rows <= 8)
        return launch_gemv<FORMAT, 2, false>(stream, chip, args);
    return launch_gemv<FORMAT, 4, false>(stream, chip, args);
}

template <typename FORMAT> static int prepare_gemv(const lam_cuda_chip *chip)
{
    int error = load_kernel_with(gemv_tiles<FORMAT, 1, true>, chip->block_smem_bytes);

    if (error == 0)
        error = load_kernel_with(gemv_tiles<FORMAT, 1, false>, chip->block_smem_bytes);
    if (error == 0)
        error = load_kernel_with(gemv_tiles<FORMAT, 2, false>, chip->block_smem_bytes);
    if (error == 0)
        error = load_kernel_with(gemv_tiles<FORMAT, 4, false>, chip->block_smem_bytes);
    return error != 0 ? error : load_kernel(split_rows<typename FORMAT::math>);
}

static inline gemv_args gemv_args_of(
    const lam_matmul_args *args, uint64_t row_bytes, void *workspace)
{
    gemv_args own = {};
    uint32_t tiles = 0;

    own.x = args->x;
    own.split = workspace;
    own.row_bytes = row_bytes;
    own.n_rows = args->n_rows;
    own.n_cols = args->n_cols;
    own.accumulate = args->accumulate;
    own.x_whole = reinterpret_cast<uintptr_t>(args->x) % 16 == 0 && args->n_cols % 4 == 0;
    for (uint32_t m = 0; m < MATS_MAX; m++) {
        const lam_matmul_mat *mat = &args->mats[m < args->n_mats ? m : args->n_mats - 1];
        own.mats[m].weight = static_cast<const uint8_t *>(mat->weight);
        own.mats[m].out = mat->out;
        own.mats[m].out_stride = mat->out_stride;
        own.mats[m].n_out = mat->n_out;
        tiles += m < args->n_mats ? div_up(mat->n_out, TILE) : 0;
        own.mats[m].tiles_end = tiles;
    }
    return own;
}

/* Whether all rows of all matrices begin at multiples of `align`. */
static inline bool rows_aligned(const gemv_args &args, uint32_t align)
{
    uintptr_t bits = static_cast<uintptr_t>(args.row_bytes);

    for (uint32_t m = 0; m < MATS_MAX; m++)
        bits |= reinterpret_cast<uintptr_t>(args.mats[m].weight);
    return bits % align == 0;
}

#endif
