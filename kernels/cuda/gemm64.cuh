/*
 * gemm64: out[t, n] (+)= sum_k x[t, k] * w[n, k] for 9 to 64 rows t, straight from packed weights:
 * decoding for many, and short prompts.
 *
 * Bytes: the packed matrix, once. Operations: 2 * 64 per weight on the tensor cores, 1 to 2
 * instructions to unpack it. The matrix is never written in 16 bits anywhere: a lane unpacks what
 * the tensor core wants of it in registers. On an H100 64 rows of an 8B model take 6.8 ms of Q4_K
 * (130 TFLOP/s; 182 in the largest product), 8.7 of BF16 and Q8_0.
 *
 * How. A warp makes 32 neighbouring results for all rows of x; weights are the left operand, in
 * which a lane has rows g, g + 8, g + 16, g + 24. Of 16 neighbouring columns lane t has 4t to
 * 4t + 3, which in every format lie in one word (of 16 bits in two): columns 4t, 4t + 2 are the
 * first pair of the operand, 4t + 1, 4t + 3 the second. x is rounded to F16 by a kernel before, into
 * the order in which lanes want it. Four warps share slices of SLICE columns of x, a ring of
 * X_STAGES in shared memory; each has its own ring of steps of STEP_K columns of its weights. Both
 * come through cp.async.
 *
 * Formats of 256 weights: the operand is quant * scale, an integer (of Q6_K rounded to 11 bits); d
 * comes in once per block of 256, in f32; minima are a product of their own: their integers times
 * the sums of 32 activations. Formats of 32: the operand is the weight, rounded to F16.
 *
 * A small matrix is cut along its columns into parts, summed up in order by a second kernel. How
 * many depends on the matrix and the chip alone, so a row's bits do not depend on the other rows of
 * the call, nor on the other matrices.
 *
 * Up to 15 bytes before and after a row are read, never used.
 *
 * A FORMAT has: STEP_K, STEP_BYTES, ROW_SLOT (bytes of a row in the ring; from row to row other
 * banks), STAGES, ALIGN, SUPER (d comes later), HAS_MIN, ARRANGED (bytes lie as arranged.cuh says),
 * view (of a row in the ring), fetch() of a lane's weights in 32 columns of a row, or fetch_two() of
 * two rows of a tile; for SUPER also prepare() once per step and row, and d_of(); for HAS_MIN minima().
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMM64_CUH
#define LAMINAR_KERNELS_CUDA_GEMM64_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/gemm64_args.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/smem.cuh"

enum : uint32_t {
    N_WARPS = 4,
    BLOCK = N_WARPS * 32,
    WARP_ROWS = 32, /* results of a warp */
    LANE_ROWS = 4,  /* g, g + 8, ... */
    TILE_ROWS = 16, /* of arranged.cuh */
    TILE = N_WARPS * WARP_ROWS,
    X_STAGES = 3,
    AHEAD = X_STAGES - 1, /* slices that are on their way */
};

static __device__ __forceinline__ __half2 as_half2(uint32_t bits)
{
    return *reinterpret_cast<const __half2 *>(&bits);
}

static __device__ __forceinline__ uint32_t bits_of(__half2 pair)
{
    return *reinterpret_cast<const uint32_t *>(&pair);
}

/* The lower or the upper half of a word, twice. */
static __device__ __forceinline__ uint32_t twice(uint32_t word, bool upper)
{
    return __byte_perm(word, 0, upper ? 0x3232 : 0x1010);
}

/* Integers below 1024 in the two halves of a word, less `bias`: put behind the leading one of an
 * F16 they are 1024 more. */
static __device__ __forceinline__ __half2 small_integers(uint32_t word, uint32_t bias)
{
    return __hadd2(as_half2(word | 0x64006400u), as_half2((0xE400u + bias) * 0x00010001u));
}

/* Bytes P and P + 2 of a word as the two halves of one, shifted right by `shift` before. */
template <uint32_t P>
static __device__ __forceinline__ uint32_t byte_pair(uint32_t word, uint32_t shift, uint32_t mask)
{
    return word >> (shift + 8 * P) & mask * 0x00010001u;
}

/* A warp's part of the work, and where it comes from. */
struct unit {
    const uint8_t *weight; /* of the warp's first row */
    uint32_t mat;
    uint32_t first_row; /* of the matrix */
    uint32_t n_valid;   /* rows from there on that exist, may be none */
    uint32_t part;
    uint32_t begin; /* slices */
    uint32_t end;
};

static __device__ __forceinline__ unit find_unit(const gemm64_args &args, uint32_t slices_per_step)
{
    uint32_t at = blockIdx.x;
    uint32_t warp = threadIdx.x / 32;
    unit u;

    u.mat = at < args.mats[0].units_end ? 0 : at < args.mats[1].units_end ? 1 : 2;
    const gemm64_mat &mat = args.mats[u.mat];
    at -= u.mat == 0 ? 0 : args.mats[u.mat - 1].units_end;
    u.part = at / mat.n_tiles;
    u.first_row = at % mat.n_tiles * TILE + warp * WARP_ROWS;
    u.n_valid = u.first_row < mat.n_out ? min(mat.n_out - u.first_row, +WARP_ROWS) : 0;
    /* A warp with nothing to do reads the last tile. */
    u.weight =
        mat.weight + min(u.first_row, (mat.n_out - 1) / TILE_ROWS * TILE_ROWS) * args.row_bytes;
    uint32_t n_steps = (args.n_slices + slices_per_step - 1) / slices_per_step;
    u.begin = u.part * n_steps / mat.n_parts * slices_per_step;
    u.end = min((u.part + 1) * n_steps / mat.n_parts * slices_per_step, args.n_slices);
    return u;
}

/* A row of 16 in the order of arranged.cuh, in the ring. */
struct chunk_row {
    uint32_t at; /* of the chunk, or of its half */
    uint32_t row;
};

/* Where step `step` of row i of the warp begins; rows behind the end repeat the last. */
template <typename FORMAT>
static __device__ __forceinline__ const uint8_t *step_of(
    const gemm64_args &args, const unit &u, uint32_t step, uint32_t i)
{
    uint32_t inside = min(i, max(u.n_valid, 1u) - 1);

    if (FORMAT::ARRANGED) /* the row's tile */
        return u.weight + inside / TILE_ROWS * TILE_ROWS * args.row_bytes +
               static_cast<uint64_t>(step) * FORMAT::STEP_BYTES * TILE_ROWS;
    return u.weight + inside * args.row_bytes + static_cast<uint64_t>(step) * FORMAT::STEP_BYTES;
}

template <typename FORMAT> static __device__ __forceinline__ uint32_t skew_of(const uint8_t *from)
{
    return FORMAT::ALIGN == 16 ? 0 : reinterpret_cast<uintptr_t>(from) % 16;
}

/* Begins to copy a step of the warp's rows into the slot at `to`. Four lanes share a row. */
template <typename FORMAT>
static __device__ __forceinline__ void begin_weights(
    const gemm64_args &args, const unit &u, uint32_t step, uint32_t to, uint32_t lane)
{
    uint32_t left = static_cast<uint32_t>(args.row_bytes) - step * FORMAT::STEP_BYTES;
    uint32_t n_bytes = min(left, static_cast<uint32_t>(FORMAT::STEP_BYTES));

#pragma unroll
    for (uint32_t i = 0; i < LANE_ROWS; i++) {
        uint32_t row = lane / 4 + i * 8;
        const uint8_t *from = step_of<FORMAT>(args, u, step, row);
        uint32_t skew = skew_of<FORMAT>(from);
#pragma unroll
        for (uint32_t piece = lane % 4; piece < FORMAT::ROW_SLOT / 16; piece += 4) {
            if (piece * 16 < n_bytes + skew)
                copy_async_16(to + row * FORMAT::ROW_SLOT + piece * 16, from - skew + piece * 16);
        }
    }
}

/* The same of the two tiles of an arranged matrix: bytes as they lie. */
template <typename FORMAT>
static __device__ __forceinline__ void begin_chunks(
    const gemm64_args &args, const unit &u, uint32_t step, uint32_t to, uint32_t lane)
{
    const uint32_t n_bytes = TILE_ROWS * FORMAT::STEP_BYTES;

#pragma unroll
    for (uint32_t tile = 0; tile < WARP_ROWS / TILE_ROWS; tile++) {
        const uint8_t *from = step_of<FORMAT>(args, u, step, tile * TILE_ROWS);
#pragma unroll
        for (uint32_t at = 0; at < n_bytes; at += 512) {
            if (at + lane * 16 < n_bytes)
                copy_async_16(to + tile * n_bytes + at + lane * 16, from + at + lane * 16);
        }
    }
}

/* Row i of a lane, in a slot. */
template <typename FORMAT>
static __device__ __forceinline__ typename FORMAT::view row_in_slot(
    const gemm64_args &args, const unit &u, uint32_t step, uint32_t slot, uint32_t row)
{
    if constexpr (FORMAT::ARRANGED)
        return {slot + row / TILE_ROWS * TILE_ROWS * FORMAT::STEP_BYTES, row % TILE_ROWS};
    else
        return view_of(
            slot + row * FORMAT::ROW_SLOT + skew_of<FORMAT>(step_of<FORMAT>(args, u, step, row)));
}

/* Begins to copy n_bytes, a multiple of 16, to the shared address `to`; by the whole block. */
static __device__ __forceinline__ void begin_bytes(
    uint32_t to, const uint8_t *from, uint32_t n_bytes)
{
    for (uint32_t at = threadIdx.x * 16; at < n_bytes; at += BLOCK * 16)
        copy_async_16(to + at, from + at);
}

/* The sums of a lane: of its four rows, for columns 2t and 2t + 1 of each eight rows of x. */
template <int NT> struct lane_sums {
    float value[LANE_ROWS / 2][NT][4];
};

/* Adds 32 columns, number `half` of slice `slice` of the step. x: of these columns. */
template <typename FORMAT, int NT>
static __device__ __forceinline__ void add_columns(const FORMAT (&own)[LANE_ROWS],
    const typename FORMAT::view (&rows)[LANE_ROWS], uint32_t slice, uint32_t half, const uint4 *x,
    uint32_t lane, lane_sums<NT> &sums)
{
    uint32_t w[LANE_ROWS][2][2]; /* of each row: 16 columns, pair */

#pragma unroll
    for (uint32_t i = 0; i < LANE_ROWS; i++) {
        if constexpr (!FORMAT::ARRANGED)
            own[i].fetch(rows[i], slice, half, lane, w[i]);
        else if (i % 2 == 0)
            FORMAT::fetch_two(own, rows, i, slice, half, lane, w);
    }
#pragma unroll
    for (uint32_t nt = 0; nt < NT; nt++) {
        uint4 b = x[nt * 64 + lane];
#pragma unroll
        for (uint32_t f = 0; f < LANE_ROWS / 2; f++) {
            const uint32_t(&up)[2][2] = w[2 * f];
            const uint32_t(&low)[2][2] = w[2 * f + 1];
            uint32_t first[4] = {up[0][0], low[0][0], up[0][1], low[0][1]};
            uint32_t second[4] = {up[1][0], low[1][0], up[1][1], low[1][1]};
            mma_f16(sums.value[f][nt], first, b.x, b.y);
            mma_f16(sums.value[f][nt], second, b.z, b.w);
        }
    }
}

/* Adds what a block of 256 columns has summed up, times d, and its minima; clears it. */
template <typename FORMAT, int NT>
static __device__ __forceinline__ void fold_block(const FORMAT (&own)[LANE_ROWS],
    const typename FORMAT::view (&rows)[LANE_ROWS], const uint2 *x_sums, uint32_t lane,
    lane_sums<NT> &sums, lane_sums<NT> &totals)
{
    float2 d[LANE_ROWS]; /* and what a minimum is worth */

#pragma unroll
    for (uint32_t i = 0; i < LANE_ROWS; i++)
        d[i] = FORMAT::d_of(rows[i]);
#pragma unroll
    for (uint32_t nt = 0; nt < NT; nt++) {
        uint2 b = FORMAT::HAS_MIN ? x_sums[nt * 32 + lane] : make_uint2(0, 0);
#pragma unroll
        for (uint32_t f = 0; f < LANE_ROWS / 2; f++) {
            float minima[4] = {};
            if constexpr (FORMAT::HAS_MIN) {
                uint32_t a[4] = {own[2 * f].minima(false), own[2 * f + 1].minima(false),
                    own[2 * f].minima(true), own[2 * f + 1].minima(true)};
                mma_f16(minima, a, b.x, b.y);
            }
#pragma unroll
            for (uint32_t e = 0; e < 4; e++) {
                float &total = totals.value[f][nt][e];
                float2 scale = d[2 * f + e / 2];
                if (FORMAT::HAS_MIN)
                    total = fmaf(scale.y, minima[e], total);
                total = fmaf(scale.x, sums.value[f][nt][e], total);
                sums.value[f][nt][e] = 0;
            }
        }
    }
}

/* The unit's sums to where they belong. */
template <int NT>
static __device__ __forceinline__ void store_unit(
    const gemm64_args &args, const unit &u, uint32_t lane, const lane_sums<NT> &sums)
{
    const gemm64_mat &mat = args.mats[u.mat];

#pragma unroll
    for (uint32_t nt = 0; nt < NT; nt++) {
#pragma unroll
        for (uint32_t e = 0; e < 2; e++) {
            uint32_t t = nt * 8 + lane % 4 * 2 + e;
            if (t >= args.n_rows)
                continue;
#pragma unroll
            for (uint32_t i = 0; i < LANE_ROWS; i++) {
                uint32_t n = lane / 4 + i * 8;
                float value = sums.value[i / 2][nt][i % 2 * 2 + e];
                if (n >= u.n_valid)
                    continue;
                if (mat.n_parts > 1) {
                    mat.parts[(static_cast<size_t>(u.part) * args.n_rows + t) * mat.n_out +
                              u.first_row + n] = value;
                    continue;
                }
                float *out = mat.out + t * mat.out_stride + u.first_row + n;
                value *= 1.0f / LAM_CUDA_ROWS_SCALE;
                *out = args.accumulate ? *out + value : value;
            }
        }
    }
}

/* Bytes of a slice of x, and of the sums of 256 columns of it. */
template <int NT> struct x_shape {
    enum : uint32_t { SLICE_BYTES = NT * 8 * SLICE * 2, SUMS_BYTES = NT * 32 * 8 };
};

template <typename FORMAT, int NT> static constexpr uint32_t gemm64_smem(void)
{
    return X_STAGES * x_shape<NT>::SLICE_BYTES + 2 * x_shape<NT>::SUMS_BYTES +
           N_WARPS * FORMAT::STAGES * WARP_ROWS * FORMAT::ROW_SLOT + 16;
}

/* Grid: one block per unit. */
template <typename FORMAT, int NT>
static __global__ void __launch_bounds__(BLOCK, 2) gemm64_units(const gemm64_args args)
{
    using shape = x_shape<NT>;
    const uint32_t per_step = FORMAT::STEP_K / SLICE;
    const uint32_t slot_bytes = WARP_ROWS * FORMAT::ROW_SLOT;
    const uint32_t sums_at = X_STAGES * shape::SLICE_BYTES;
    uint32_t lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    uint32_t ring = sums_at + 2 * shape::SUMS_BYTES + warp * FORMAT::STAGES * slot_bytes;
    uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(smem));
    unit u = find_unit(args, per_step);
    lane_sums<NT> sums = {};
    lane_sums<NT> totals = {}; /* of whole blocks, of SUPER */
    FORMAT own[LANE_ROWS];
    typename FORMAT::view rows[LANE_ROWS];

    auto begin_step = [&](uint32_t step) {
        uint32_t to = base + ring + step % FORMAT::STAGES * slot_bytes;
        if (step * per_step >= u.end)
            return;
        if constexpr (FORMAT::ARRANGED)
            begin_chunks<FORMAT>(args, u, step, to, lane);
        else
            begin_weights<FORMAT>(args, u, step, to, lane);
    };
    auto begin_slice = [&](uint32_t slice) {
        if (slice >= u.end)
            return;
        begin_bytes(base + slice % X_STAGES * shape::SLICE_BYTES,
            args.x + static_cast<size_t>(slice) * shape::SLICE_BYTES, shape::SLICE_BYTES);
        if (FORMAT::HAS_MIN && slice % per_step == 0)
            begin_bytes(base + sums_at + slice / per_step % 2 * shape::SUMS_BYTES,
                args.x_sums + static_cast<size_t>(slice / per_step) * shape::SUMS_BYTES,
                shape::SUMS_BYTES);
    };

    /* The first AHEAD slices of weights and x, then those AHEAD of each slice: a group of copies
     * for each. Weights of a step come with its first slice. */
    let_successors_begin();
    for (uint32_t slice = u.begin; slice < u.begin + AHEAD; slice++) {
        if (slice % per_step == 0)
            begin_step(slice / per_step);
    }
    wait_for_predecessors();
    for (uint32_t slice = u.begin; slice < u.begin + AHEAD; slice++) {
        begin_slice(slice);
        copy_async_commit();
    }
    for (uint32_t slice = u.begin; slice < u.end; slice++) {
        uint32_t step = slice / per_step;
        copy_async_wait<AHEAD - 1>();
        __syncthreads(); /* the slice is there for all, and its predecessor is read by all */
        if ((slice + AHEAD) % per_step == 0)
            begin_step((slice + AHEAD) / per_step);
        begin_slice(slice + AHEAD);
        copy_async_commit();
        if (slice % per_step == 0) {
#pragma unroll
            for (uint32_t i = 0; i < LANE_ROWS; i++) {
                rows[i] = row_in_slot<FORMAT>(
                    args, u, step, ring + step % FORMAT::STAGES * slot_bytes, lane / 4 + i * 8);
                if constexpr (FORMAT::SUPER)
                    own[i].prepare(rows[i], lane);
            }
        }
        const uint4 *x =
            reinterpret_cast<const uint4 *>(smem_at(slice % X_STAGES * shape::SLICE_BYTES));
#pragma unroll
        for (uint32_t half = 0; half < 2; half++)
            add_columns<FORMAT, NT>(own, rows, slice % per_step, half, x + half * 32, lane, sums);
        if constexpr (FORMAT::SUPER) {
            if ((slice + 1) % per_step == 0)
                fold_block<FORMAT, NT>(own, rows,
                    reinterpret_cast<const uint2 *>(
                        smem_at(sums_at + step % 2 * shape::SUMS_BYTES)),
                    lane, sums, totals);
        }
    }
    store_unit<NT>(args, u, lane, FORMAT::SUPER ? totals : sums);
}

template <typename FORMAT>
static int gemm64_of_format(CUstream_st *stream, const lam_cuda_chip *chip, const gemm64_args &args)
{
    dim3 grid(args.mats[MATS_MAX - 1].units_end);

    if (args.n_rows <= 32)
        return launch(
            stream, chip, gemm64_units<FORMAT, 4>, grid, BLOCK, gemm64_smem<FORMAT, 4>(), args);
    return launch(
        stream, chip, gemm64_units<FORMAT, 8>, grid, BLOCK, gemm64_smem<FORMAT, 8>(), args);
}

template <typename FORMAT> static int prepare_gemm64(void)
{
    static_assert(FORMAT::STEP_K % SLICE == 0, "a step is whole slices");
    static_assert(gemm64_smem<FORMAT, 8>() <= 99 << 10, "every chip has this much");
    int error = load_kernel_with(gemm64_units<FORMAT, 4>, gemm64_smem<FORMAT, 4>());

    return error != 0 ? error : load_kernel_with(gemm64_units<FORMAT, 8>, gemm64_smem<FORMAT, 8>());
}

#endif
