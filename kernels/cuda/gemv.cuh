/*
 * gemv: out[t, n] (+)= sum_k x[t, k] * w[n, k] for 1 to 16 rows t, on tensor cores: the product of
 * decoding.
 *
 * Bytes: the packed matrix, once: bound by memory. Operations: 1 to 2 instructions per weight to
 * fetch and unpack it, and one mma for 16 weights of a lane and 4 rows. On an H100 (3085 GB/s) one
 * row of BF16 runs at 0.81 to 0.98 of the memory's speed, Q8_0 at 0.58 to 0.81, Q4_K at 0.35 to
 * 0.74, small matrices worst: each launch has some microseconds that are not streaming.
 *
 * How. Two ways of multiplying share everything else: gemv_int8.cuh for the formats of blocks,
 * gemv_bf16.cuh for floats. In both an activation is split in two digits, which lie in neighbouring
 * columns of the right operand, so that an mma takes 4 rows; weights are exact.
 *
 * A warp makes 16 neighbouring results (a "tile") and walks along the rows of the matrix in steps
 * of STEP_K columns. The bytes of a step come through cp.async into the warp's own ring of
 * slots in aligned pieces of 16 bytes, whatever the alignment of the rows, and begin to come while
 * the kernel before still runs. The long axis is dealt out to up to 8 warps of a block, step by
 * step; their sums are added in order at the end (gemv_finish.cuh). Which warp has which step depends on n_cols and
 * the format alone: a row's bits do not depend on the other rows of the call, nor on the other
 * matrices.
 *
 * The split activations of one row lie in shared memory and are made by every block; those of more
 * rows are made by a kernel before, into the workspace (gemv_split.cuh). Norms before a product and
 * swiglu, rotations and kv_write behind it may be part of it (lam_cuda_gemv_args).
 *
 * Up to 15 bytes before and after a row are read, never used.
 *
 * A FORMAT has: math (which of the two), STEP_K, STEP_BYTES, ROW_SLOT and SLOT (bytes of a row and
 * of a tile in the ring), STAGES (least slots of a ring), ALIGN, place() of a piece in its row,
 * fetch() of a lane's part of a group. Those of gemv_int8.cuh also have the scales of a group: for
 * one row begin() once per step and lane_scales(), for more rows SCALE_BYTES (a warp's room for
 * unpacked scales), prepare() once per step and shared_scales().
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_CUH

#include <stdint.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/gemv_args.cuh"
#include "kernels/cuda/gemv_finish.cuh"
#include "kernels/cuda/gemv_split.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/smem.cuh"

/* A warp's place in its stream of steps, n_stages - 1 ahead of what it works on. */
struct reader {
    const uint8_t *from; /* the step's bytes in the tile's first row */
    uint32_t last_row;   /* of the tile; those behind it repeat it */
    uint32_t tile_in_unit;
    uint32_t slice;
    uint32_t round;
    uint32_t step;
    uint32_t stage;
    bool inside; /* the tile is there */
};

/* Begins to copy a step, n_bytes of each row, into the slot at `to` (a shared address). Neighbouring
 * lanes have neighbouring pieces: what limits the speed is the number of copy instructions, and of
 * the lines that each touches. */
template <typename FORMAT>
static __device__ __forceinline__ void begin_step(
    const gemv_args &args, const reader &ahead, uint32_t n_bytes, uint32_t to, uint32_t lane)
{
    const bool aligned = FORMAT::ALIGN == 16;
    const uint32_t n_pieces = (FORMAT::STEP_BYTES + (aligned ? 0 : 14) + 15) / 16; /* of a row */

#pragma unroll
    for (uint32_t at = 0; at < TILE * n_pieces; at += 32) {
        uint32_t row = (at + lane) / n_pieces;
        uint32_t piece = (at + lane) % n_pieces;
        if (TILE * n_pieces % 32 != 0 && row >= TILE)
            continue;
        const uint8_t *from = ahead.from + min(row, ahead.last_row) * args.row_bytes;
        uint32_t skew = aligned ? 0 : reinterpret_cast<uintptr_t>(from) % 16;
        if (piece * 16 < n_bytes + skew)
            copy_async_16<aligned && FORMAT::STEP_BYTES % 256 == 0>(
                to + row * FORMAT::ROW_SLOT + FORMAT::place(row, piece) * 16,
                from - skew + piece * 16);
    }
}

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

/* Until the oldest of n_stages - 1 steps that are on their way is there. */
static __device__ __forceinline__ void wait_for_step(uint32_t n_stages)
{
    if (n_stages == 2)
        copy_async_wait<0>();
    else if (n_stages == 3)
        copy_async_wait<1>();
    else if (n_stages == 4)
        copy_async_wait<2>();
    else
        copy_async_wait<STAGES_MAX - 2>();
}

/* Begins to copy the reader's next step into the ring at `ring`, if there is one. */
template <typename FORMAT>
static __device__ __forceinline__ void begin_next(
    const gemv_args &args, reader &ahead, uint32_t ring, uint32_t lane)
{
    if (ahead.step == ahead.slice) { /* a new tile */
        uint32_t unit = unit_of(args, ahead.round);
        uint32_t tile = unit * args.tiles_per_block + ahead.tile_in_unit;
        ahead.inside = unit < args.n_units && tile < args.mats[MATS_MAX - 1].tiles_end;
        tile_rows rows = find_tile(args, ahead.inside ? tile : 0);
        ahead.from = rows.weight + ahead.slice * FORMAT::STEP_BYTES;
        ahead.last_row = rows.n_valid - 1;
    }
    if (ahead.inside) {
        uint32_t left = static_cast<uint32_t>(args.row_bytes) - ahead.step * FORMAT::STEP_BYTES;
        begin_step<FORMAT>(args, ahead, min(left, static_cast<uint32_t>(FORMAT::STEP_BYTES)),
            ring + ahead.stage * FORMAT::SLOT, lane);
    }
    copy_async_commit();
    ahead.stage = ahead.stage + 1 == args.n_stages ? 0 : ahead.stage + 1;
    ahead.step += args.n_slices;
    ahead.from += args.n_slices * FORMAT::STEP_BYTES;
    if (ahead.step >= args.n_steps) {
        ahead.step = ahead.slice;
        ahead.round++;
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
    uint32_t ring = args.ring_at + warp * args.n_stages * FORMAT::SLOT;
    uint32_t ring_address = static_cast<uint32_t>(__cvta_generic_to_shared(smem_at(ring)));
    uint32_t scales = args.scales_at + warp * FORMAT::SCALE_BYTES;
    uint32_t stage = 0;
    reader ahead = {NULL, 0, tile_in_unit, slice, 0, slice, 0, false};

    let_successors_begin();
    for (uint32_t i = 0; i < args.n_stages - 1; i++)
        begin_next<FORMAT>(args, ahead, ring_address, lane);
    if (ONE)
        fetch_norm(args);
    wait_for_predecessors();
    if (ONE)
        split_here<typename FORMAT::math>(args);
    for (uint32_t round = 0; unit_of(args, round) < args.n_units; round++) {
        uint32_t tile = unit_of(args, round) * args.tiles_per_block + tile_in_unit;
        bool inside = tile < args.mats[MATS_MAX - 1].tiles_end;
        tile_rows rows = find_tile(args, inside ? tile : 0);
        float sums[NT][2] = {};
        for (uint32_t step = slice; step < args.n_steps; step += args.n_slices) {
            wait_for_step(args.n_stages);
            __syncwarp();
            begin_next<FORMAT>(args, ahead, ring_address, lane);
            if (inside)
                FORMAT::math::template add_step<FORMAT, NT, ONE>(
                    args, rows, step, ring + stage * FORMAT::SLOT, scales, lane, sums);
            stage = stage + 1 == args.n_stages ? 0 : stage + 1;
        }
        keep_sums<NT, ONE>(args, round, sums);
        uint32_t first = round / args.parts_rounds * args.parts_rounds;
        if (round + 1 - first == args.parts_rounds || unit_of(args, round + 1) >= args.n_units)
            finish_rounds<ONE ? 1 : NT * 4>(args, first, round + 1);
    }
}

/* Lays out shared memory; returns its size. */
template <typename FORMAT, int NT, bool ONE>
static uint32_t gemv_smem(gemv_args *args, uint32_t parts_rounds, uint32_t n_stages)
{
    using math = typename FORMAT::math;

    args->parts_rounds = parts_rounds;
    args->n_stages = n_stages;
    args->facts_at = ONE ? args->n_groups * 8 * sizeof(typename math::operand) : 0;
    args->scales_at = args->facts_at + (ONE && math::HAS_FACTS ? (args->n_groups + 1) / 2 * 16 : 0);
    args->parts_at = args->scales_at + (ONE ? 0 : N_WARPS * FORMAT::SCALE_BYTES);
    args->ring_at = args->parts_at + parts_rounds * N_WARPS * TILE * (ONE ? 1 : NT * 4) * 4;
    return args->ring_at + N_WARPS * n_stages * FORMAT::SLOT;
}

/* The same with as many stages, then rounds, as do not cost a block of a multiprocessor; at most
 * per_sm_max blocks. Returns their number. */
template <typename FORMAT, int NT, bool ONE>
static uint32_t fill_sm(gemv_args *args, const lam_cuda_chip *chip, uint32_t per_sm_max)
{
    auto blocks = [&](uint32_t parts_rounds, uint32_t n_stages) {
        uint32_t bytes = gemv_smem<FORMAT, NT, ONE>(args, parts_rounds, n_stages);
        uint32_t fit = bytes > chip->block_smem_bytes ? 0 : chip->sm_smem_bytes / (bytes + 1024);
        return fit > per_sm_max ? per_sm_max : fit;
    };
    uint32_t per_sm = blocks(PARTS_MIN, FORMAT::STAGES);
    uint32_t n_stages = STAGES_MAX;
    uint32_t parts_rounds = PARTS_MAX;

    while (n_stages > FORMAT::STAGES && blocks(PARTS_MIN, n_stages) < per_sm)
        n_stages--;
    while (parts_rounds > PARTS_MIN && blocks(parts_rounds, n_stages) < per_sm)
        parts_rounds /= 2;
    (void)gemv_smem<FORMAT, NT, ONE>(args, parts_rounds, n_stages);
    return per_sm;
}

template <typename FORMAT, int NT, bool ONE>
static int launch_gemv(CUstream_st *stream, const lam_cuda_chip *chip, gemv_args args)
{
    /* As the launch bounds say. */
    uint32_t per_sm = fill_sm<FORMAT, NT, ONE>(&args, chip, NT == 1 ? 3 : 2);
    uint32_t bytes = args.ring_at + N_WARPS * args.n_stages * FORMAT::SLOT;
    int error = 0;

    assert(per_sm > 0);
    if (!ONE)
        error = launch(stream, chip, split_rows<typename FORMAT::math>,
            dim3(div_up(args.n_groups * 4, BLOCK), NT * 4), BLOCK, 0, args);
    if (error != 0)
        return error;
    uint32_t n_shares = args.in_turn ? div_up(args.n_units, 2) : args.n_units;
    uint32_t n_blocks = chip->n_sms * per_sm < n_shares ? chip->n_sms * per_sm : n_shares;
    return launch(stream, chip, gemv_tiles<FORMAT, NT, ONE>, dim3(n_blocks), BLOCK, bytes, args);
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
    if (args.n_rows == 1 &&
        gemv_smem<FORMAT, 1, true>(&args, PARTS_MIN, FORMAT::STAGES) <= chip->block_smem_bytes)
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

/* Where the rows of a call go in the cache; what angles they are turned by. */
static inline void place_rows(gemv_args *own, const lam_cuda_rope_kv_args &rope_kv)
{
    const lam_kv_write_args &write = rope_kv.write;

    own->angles = rope_kv.q.table;
    own->kv = write.kv;
    for (uint32_t s = 0; s < write.n_seqs; s++) {
        for (uint32_t r = 0; r < write.seqs[s].n_rows; r++) {
            auto &place = own->places[write.seqs[s].row_begin + r];
            place.pages = write.seqs[s].pages;
            place.position = write.seqs[s].pos_begin + r;
        }
    }
}

static inline gemv_role role_of(const lam_cuda_gemv_args *args, const float *out)
{
    if (args->swiglu != NULL)
        return ROLE_GATE;
    if (args->rope_kv == NULL)
        return ROLE_PLAIN;
    return out == args->rope_kv->q.x   ? ROLE_QUERY
           : out == args->rope_kv->k.x ? ROLE_KEY
                                       : ROLE_VALUE;
}

static inline gemv_args gemv_args_of(
    const lam_cuda_gemv_args *all, uint64_t row_bytes, void *workspace)
{
    const lam_matmul_args *args = &all->product;
    gemv_args own = {};
    uint32_t tiles = 0;
    uintptr_t x_bits = reinterpret_cast<uintptr_t>(args->x);

    own.x = args->x;
    own.split = workspace;
    own.row_bytes = row_bytes;
    own.n_rows = args->n_rows;
    own.n_cols = args->n_cols;
    own.accumulate = args->accumulate;
    own.in_turn = all->swiglu != NULL;
    if (all->norm != NULL) {
        own.x = all->norm->x;
        own.norm_weight = all->norm->weight;
        own.normed = all->norm->out;
        own.eps = all->norm->eps;
        x_bits |= reinterpret_cast<uintptr_t>(own.x) | reinterpret_cast<uintptr_t>(own.norm_weight);
    }
    own.x_whole = x_bits % 16 == 0 && args->n_cols % 4 == 0;
    for (uint32_t m = 0; m < MATS_MAX; m++) {
        const lam_matmul_mat *mat = &args->mats[m < args->n_mats ? m : args->n_mats - 1];
        own.mats[m].weight = static_cast<const uint8_t *>(mat->weight);
        own.mats[m].out = mat->out;
        own.mats[m].out_stride = mat->out_stride;
        own.mats[m].n_out = mat->n_out;
        own.mats[m].role = role_of(all, mat->out);
        tiles += m < args->n_mats ? div_up(mat->n_out, TILE) : 0;
        own.mats[m].tiles_end = tiles;
    }
    if (all->rope_kv != NULL)
        place_rows(&own, *all->rope_kv);
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
