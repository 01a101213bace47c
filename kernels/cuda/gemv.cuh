/*
 * gemv: out[t, n] (+)= sum_k x[t, k] * w[n, k] for 1 to 16 rows t, on tensor cores: the product of
 * decoding.
 *
 * Bytes: the packed matrix, once: bound by memory. Operations: about 3 instructions per weight to
 * unpack it, and one mma for 8 weights of a lane and 4 rows.
 *
 * How. Weights become BF16, which is exact: small integers for the formats of blocks, one, two or
 * three terms for BF16, F16 and F32. An activation is split in two BF16 that together have 16 bits:
 * they lie in neighbouring columns of the right operand, so that an mma takes 4 rows. After each
 * block of 32 weights the two columns are added, multiplied by the block's scale in f32 and added
 * up in f32; offsets are taken into account with the sums of the activations. So what differs from
 * the reference is the activations' 17th bit, and the rounding of f32 sums.
 *
 * A warp makes 16 neighbouring results (a "tile") and walks along the rows of the matrix in steps
 * of STEP_K columns. The bytes of a step come through cp.async into the warp's own ring of STAGES
 * slots in aligned pieces of 16 bytes, whatever the alignment of the rows. The long axis is dealt
 * out to up to 8 warps of a block, step by step; their sums are added in order at the end. Which
 * warp has which step depends on n_cols and the format alone: a row's bits do not depend on the
 * other rows of the call, nor on the other matrices.
 *
 * The split activations of one row lie in shared memory and are made by every block; those of more
 * rows are made by a kernel before, into the workspace, in the order in which lanes want them.
 *
 * Up to 15 bytes before and after a row are read, never used.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

enum : uint32_t {
    TILE = 16, /* results of a warp */
    MATS_MAX = 3,
    N_WARPS = 8,
    BLOCK = N_WARPS * 32,
    GROUP_K = 32, /* columns that share a scale, at most */
};

extern __shared__ uint4 smem[];

static __device__ __forceinline__ uint8_t *smem_at(uint32_t at)
{
    return reinterpret_cast<uint8_t *>(smem) + at;
}

static __device__ __forceinline__ uint32_t smem_u16(uint32_t at)
{
    return *reinterpret_cast<const uint16_t *>(smem_at(at));
}

static __device__ __forceinline__ uint32_t smem_u32(uint32_t at)
{
    return *reinterpret_cast<const uint32_t *>(smem_at(at));
}

static __device__ __forceinline__ float half_bits(uint32_t bits)
{
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

/* The bytes of a row in a slot, which may begin at any even offset, for reading whole words. */
struct row_bytes_at {
    uint32_t at;
    uint32_t even;  /* at, rounded down to a word */
    uint32_t odd;   /* at, rounded up */
    uint32_t shift; /* bits that at lies in the word of `even` */
};

static __device__ __forceinline__ row_bytes_at view_of(uint32_t at)
{
    row_bytes_at row = {at, at & ~3u, (at + 2) & ~3u, (at & 2) * 8};

    return row;
}

/* The word at byte `offset` (even, best a constant) of a row whose alignment is ALIGN; `lane`: a
 * multiple of 4 to add. With ALIGN 2, up to 4 bytes more are read. */
template <int ALIGN>
static __device__ __forceinline__ uint32_t smem_word(
    const row_bytes_at &row, uint32_t lane, uint32_t offset)
{
    if (ALIGN >= 4)
        return smem_u32(row.at + lane + offset);
    bool whole = offset % 4 == 0;
    uint32_t at = lane + (whole ? row.even + offset : row.odd + (offset - 2));
    return __funnelshift_r(smem_u32(at), smem_u32(at + 4), whole ? row.shift : 16 - row.shift);
}

/* BF16 pairs: 128 + those bits of `word` that `mask` names, less `less`. Exact. */
static __device__ __forceinline__ uint32_t small_ints(uint32_t word, uint32_t mask, uint32_t less)
{
    uint32_t raised;

    /* (word & mask) | 128: one instruction, which the compiler does not find with two constants. */
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(raised) : "r"(word), "r"(mask), "r"(0x43004300u));
    __nv_bfloat162 pair = __hsub2(*reinterpret_cast<const __nv_bfloat162 *>(&raised),
        *reinterpret_cast<const __nv_bfloat162 *>(&less));
    return *reinterpret_cast<const uint32_t *>(&pair);
}

/* x in two BF16: its first 8 bits and the next 8; returns their sum. NaN and infinity stay. */
static __device__ __forceinline__ float split_float(float x, uint32_t &high, uint32_t &low)
{
    __nv_bfloat16 whole = __float2bfloat16_rn(x);
    __nv_bfloat16 rest = __float2bfloat16_rn(x - __bfloat162float(whole));

    high = __bfloat16_as_ushort(whole);
    low = __bfloat16_as_ushort(rest);
    return __bfloat162float(whole) + __bfloat162float(rest);
}

/*
 * Which columns of a group of 32 a lane of the fourth t holds: its eight, in the order of the
 * operands: product 0 first pair, second pair, product 1 first pair, second pair.
 */
enum order {
    ORDER_PLAIN,  /* 8t, 8t + 1, .. */
    ORDER_HALVES, /* product m: 16m + 4t + 0, 2 and 1, 3: as bytes are spread over two halves */
    ORDER_BYTES,  /* product m: 8t + 4m + 0, 2 and 1, 3 */
};

template <order ORDER> static __device__ __forceinline__ uint32_t column_of(uint32_t t, uint32_t i)
{
    uint32_t byte = i % 4 / 2 + i % 2 * 2;

    if (ORDER == ORDER_PLAIN)
        return 8 * t + i;
    return ORDER == ORDER_HALVES ? i / 4 * 16 + 4 * t + byte : 8 * t + i / 4 * 4 + byte;
}

/* The eight of lane t: operands of the whole (column 2r) and of the rest (2r + 1); the sum of all
 * 32 of the group. Whole warps only: four lanes add up together. */
template <order ORDER>
static __device__ __forceinline__ void split_group(
    const float *row, uint32_t k, uint32_t n_cols, uint32_t t, uint4 &high, uint4 &low, float &sum)
{
    uint32_t whole[8];
    uint32_t rest[8];

    sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t column = k + column_of<ORDER>(t, i);
        float value = row != NULL && column < n_cols ? row[column] : 0.0f;
        sum += split_float(value, whole[i], rest[i]);
    }
    high = make_uint4(whole[0] | whole[1] << 16, whole[2] | whole[3] << 16,
        whole[4] | whole[5] << 16, whole[6] | whole[7] << 16);
    low = make_uint4(rest[0] | rest[1] << 16, rest[2] | rest[3] << 16, rest[4] | rest[5] << 16,
        rest[6] | rest[7] << 16);
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
}

struct gemv_args {
    struct {
        const uint8_t *weight;
        float *out;
        uint64_t out_stride;
        uint32_t n_out;
        uint32_t tiles_end; /* tiles of this matrix and those before it */
    } mats[MATS_MAX];
    const float *x;
    uint4 *split; /* [rows / 4][groups][lane]: right operands, when n_rows > 1 */
    float *sums;  /* [rows / 4][groups][4] */
    uint64_t row_bytes;
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_steps;
    uint32_t n_groups; /* of all steps, also those behind n_cols */
    uint32_t n_slices; /* warps of a tile */
    uint32_t sums_at;  /* offsets in shared memory */
    uint32_t scales_at;
    uint32_t parts_at;
    uint32_t ring_at;
    bool accumulate;
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

/* Begins to copy one step of a tile into the slot at `to`. Four lanes share a row. */
template <typename FORMAT>
static __device__ __forceinline__ void begin_step(
    const gemv_args &args, const tile_rows &rows, uint32_t step, uint32_t to, uint32_t lane)
{
    uint64_t begin = static_cast<uint64_t>(step) * FORMAT::STEP_BYTES;
    uint64_t left = args.row_bytes - begin;
    uint32_t n_bytes = left < FORMAT::STEP_BYTES ? static_cast<uint32_t>(left) : FORMAT::STEP_BYTES;

#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t row = lane / 4 + i * 8;
        const uint8_t *from = row_of(args, rows, row) + begin;
        uint32_t skew = FORMAT::ALIGN == 16 ? 0 : reinterpret_cast<uintptr_t>(from) % 16;
        uint32_t slot =
            static_cast<uint32_t>(__cvta_generic_to_shared(smem_at(to + row * FORMAT::ROW_SLOT)));
#pragma unroll
        for (uint32_t piece = lane % 4; piece < FORMAT::ROW_SLOT / 16; piece += 4) {
            if (piece * 16 < n_bytes + skew)
                copy_async_16(slot + FORMAT::place(row, piece) * 16, from - skew + piece * 16);
        }
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

/* Right operands of a group for the 4 rows of column tile `nt`, and the sum of the lane's row. */
template <typename FORMAT, bool ONE>
static __device__ __forceinline__ void load_x(
    const gemv_args &args, uint32_t group, uint32_t nt, uint32_t lane, uint4 &x, float &sum)
{
    sum = 0;
    if (ONE) {
        x = make_uint4(0, 0, 0, 0);
        if (lane < 8)
            x = *reinterpret_cast<const uint4 *>(smem_at((group * 8 + lane) * 16));
        if (FORMAT::HAS_MIN)
            sum = *reinterpret_cast<const float *>(smem_at(args.sums_at + group * 4));
    } else {
        x = args.split[(nt * args.n_groups + group) * 32 + lane];
        if (FORMAT::HAS_MIN)
            sum = args.sums[(nt * args.n_groups + group) * 4 + lane % 4];
    }
}

/* Adds one step of a tile to the sums of rows g and g + 8, for the lane's row of each column tile.
 * */
template <typename FORMAT, int NT, bool ONE>
static __device__ __forceinline__ void add_step(const gemv_args &args, const tile_rows &rows,
    uint32_t step, uint32_t slot, uint32_t scales, uint32_t lane, float (&sums)[NT][2])
{
    uint32_t left = args.n_cols - step * FORMAT::STEP_K;
    row_bytes_at at[2];
    FORMAT own[2]; /* what a format keeps of a row from group to group */
    float plain[NT][4] = {};

    for (uint32_t i = 0; i < 2; i++)
        at[i] = view_of(row_at<FORMAT>(args, rows, step, slot, lane / 4 + i * 8));
    FORMAT::prepare(at, scales, lane);
#pragma unroll(NT == 4 ? 2 : 8) /* of 8 in most formats; more would not fit into registers */
    for (uint32_t group = 0; group < FORMAT::STEP_K / GROUP_K; group++) {
        uint32_t w[2][FORMAT::TERMS][4];
#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
            own[i].fetch(at[i], scales, group, lane, i, left, w[i]);
#pragma unroll
        for (uint32_t nt = 0; nt < NT; nt++) {
            uint4 x;
            float x_sum;
            float dots[4] = {};
            float(&total)[4] = FORMAT::SCALES == 0 ? plain[nt] : dots;
            load_x<FORMAT, ONE>(
                args, step * (FORMAT::STEP_K / GROUP_K) + group, nt, lane, x, x_sum);
#pragma unroll
            for (int i = 0; i < FORMAT::TERMS; i++) {
                uint32_t first[4] = {w[0][i][0], w[1][i][0], w[0][i][1], w[1][i][1]};
                uint32_t second[4] = {w[0][i][2], w[1][i][2], w[0][i][3], w[1][i][3]};
                mma_bf16(total, first, x.x, x.y);
                if (FORMAT::SCALES == 2) {
                    sums[nt][0] = fmaf(own[0].d[0], dots[0] + dots[1], sums[nt][0]);
                    sums[nt][1] = fmaf(own[1].d[0], dots[2] + dots[3], sums[nt][1]);
                    dots[0] = dots[1] = dots[2] = dots[3] = 0;
                }
                mma_bf16(total, second, x.z, x.w);
            }
            if (FORMAT::SCALES > 0) {
                const int last = FORMAT::SCALES == 2 ? 1 : 0;
                sums[nt][0] = fmaf(own[0].d[last], dots[0] + dots[1], sums[nt][0]);
                sums[nt][1] = fmaf(own[1].d[last], dots[2] + dots[3], sums[nt][1]);
            }
            if (FORMAT::HAS_MIN) {
                sums[nt][0] = fmaf(own[0].m, x_sum, sums[nt][0]);
                sums[nt][1] = fmaf(own[1].m, x_sum, sums[nt][1]);
            }
        }
    }
    if (FORMAT::SCALES == 0) {
#pragma unroll
        for (uint32_t nt = 0; nt < NT; nt++) {
            sums[nt][0] += plain[nt][0] + plain[nt][1];
            sums[nt][1] += plain[nt][2] + plain[nt][3];
        }
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
    uint32_t n_tiles = N_WARPS / args.n_slices;
    for (uint32_t at = threadIdx.x; at < n_tiles * args.n_rows * TILE; at += BLOCK) {
        uint32_t n = at % TILE;
        uint32_t t = at / TILE % args.n_rows;
        uint32_t i = at / TILE / args.n_rows;
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

/* Splits the one row into shared memory. */
template <typename FORMAT> static __device__ __forceinline__ void split_here(const gemv_args &args)
{
    uint32_t n_items = args.n_groups * 4;

    for (uint32_t i = threadIdx.x; i < (n_items + 31) / 32 * 32; i += BLOCK) {
        uint4 high, low;
        float sum;
        split_group<FORMAT::ORDER>(args.x, i / 4 * GROUP_K, args.n_cols, i % 4, high, low, sum);
        if (i >= n_items)
            continue;
        *reinterpret_cast<uint4 *>(smem_at((i / 4 * 8 + i % 4) * 16)) = high;
        *reinterpret_cast<uint4 *>(smem_at((i / 4 * 8 + 4 + i % 4) * 16)) = low;
        if (FORMAT::HAS_MIN && i % 4 == 0)
            *reinterpret_cast<float *>(smem_at(args.sums_at + i)) = sum;
    }
    __syncthreads();
}

/* Grid: any number of blocks; they share the tiles in rounds. */
template <typename FORMAT, int NT, bool ONE>
static __global__ void __launch_bounds__(BLOCK, NT == 1 ? 3 : 2) gemv_tiles(const gemv_args args)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    uint32_t slice = warp % args.n_slices;
    uint32_t tiles_per_block = N_WARPS / args.n_slices;
    uint32_t n_tiles = args.mats[MATS_MAX - 1].tiles_end;
    uint32_t n_units = (n_tiles + tiles_per_block - 1) / tiles_per_block;
    uint32_t n_rounds = (n_units - blockIdx.x + gridDim.x - 1) / gridDim.x;
    uint32_t ring = args.ring_at + warp * (FORMAT::STAGES * FORMAT::SLOT);
    uint32_t scales = args.scales_at + warp * FORMAT::SCALE_BYTES;
    uint32_t ahead_round = 0;
    uint32_t ahead_step = slice;
    uint32_t ahead_stage = 0;
    uint32_t stage = 0;

    auto tile_of = [&](uint32_t round) {
        return (blockIdx.x + round * gridDim.x) * tiles_per_block + warp / args.n_slices;
    };
    auto begin_next = [&]() {
        uint32_t tile = tile_of(ahead_round);
        if (ahead_round < n_rounds && tile < n_tiles)
            begin_step<FORMAT>(
                args, find_tile(args, tile), ahead_step, ring + ahead_stage * FORMAT::SLOT, lane);
        copy_async_commit();
        ahead_stage = ahead_stage + 1 == FORMAT::STAGES ? 0 : ahead_stage + 1;
        ahead_step += args.n_slices;
        if (ahead_step >= args.n_steps) {
            ahead_step = slice;
            ahead_round++;
        }
    };

    let_successors_begin();
    for (uint32_t i = 0; i < FORMAT::STAGES - 1; i++)
        begin_next();
    wait_for_predecessors();
    if (ONE)
        split_here<FORMAT>(args);
    for (uint32_t round = 0; round < n_rounds; round++) {
        bool inside = tile_of(round) < n_tiles;
        tile_rows rows = find_tile(args, inside ? tile_of(round) : 0);
        float sums[NT][2] = {};
        for (uint32_t step = slice; step < args.n_steps; step += args.n_slices) {
            copy_async_wait<FORMAT::STAGES - 2>();
            __syncwarp();
            begin_next();
            if (inside)
                add_step<FORMAT, NT, ONE>(
                    args, rows, step, ring + stage * FORMAT::SLOT, scales, lane, sums);
            stage = stage + 1 == FORMAT::STAGES ? 0 : stage + 1;
        }
        finish_tiles<NT, ONE>(
            args, round, (blockIdx.x + round * gridDim.x) * tiles_per_block, sums);
    }
}

/* Splits the rows of a call. Grid: (groups * 4 / BLOCK, rows rounded up to the column tiles). */
template <order ORDER>
static __global__ void __launch_bounds__(BLOCK) split_rows(const gemv_args args)
{
    uint32_t i = blockIdx.x * BLOCK + threadIdx.x;
    uint32_t group = i / 4;
    uint32_t nt = blockIdx.y / 4;
    uint32_t r = blockIdx.y % 4;
    uint4 high, low;
    float sum;

    let_successors_begin();
    wait_for_predecessors();
    const float *row =
        blockIdx.y < args.n_rows ? args.x + static_cast<size_t>(blockIdx.y) * args.n_cols : NULL;
    split_group<ORDER>(row, group * GROUP_K, args.n_cols, i % 4, high, low, sum);
    if (group >= args.n_groups)
        return;
    uint4 *to = args.split + (nt * args.n_groups + group) * 32 + i % 4;
    to[2 * r * 4] = high;
    to[(2 * r + 1) * 4] = low;
    if (i % 4 == 0)
        args.sums[(nt * args.n_groups + group) * 4 + r] = sum;
}

/* Lays out shared memory; returns its size. */
template <typename FORMAT, int NT, bool ONE> static uint32_t gemv_smem(gemv_args *args)
{
    uint32_t sums_bytes = ONE && FORMAT::HAS_MIN ? (args->n_groups * 4 + 15) / 16 * 16 : 0;

    args->sums_at = ONE ? args->n_groups * 8 * 16 : 0;
    args->scales_at = args->sums_at + sums_bytes;
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
    uint32_t n_units = div_up(args.mats[MATS_MAX - 1].tiles_end, N_WARPS / args.n_slices);
    uint32_t n_rounds = div_up(n_units, chip->n_sms * per_sm);
    int error = 0;

    assert(bytes <= chip->block_smem_bytes);
    if (!ONE)
        error = launch(stream, chip, split_rows<FORMAT::ORDER>,
            dim3(div_up(args.n_groups * 4, BLOCK), NT * 4), BLOCK, 0, args);
    if (error != 0)
        return error;
    return launch(stream, chip, gemv_tiles<FORMAT, NT, ONE>, dim3(div_up(n_units, n_rounds)), BLOCK,
        bytes, args);
}

template <typename FORMAT>
static int gemv_of_format(CUstream_st *stream, const lam_cuda_chip *chip, gemv_args args)
{
    args.n_steps = div_up(args.n_cols, FORMAT::STEP_K);
    args.n_groups = args.n_steps * (FORMAT::STEP_K / GROUP_K);
    args.n_slices = args.n_steps >= 8 ? 8 : args.n_steps >= 4 ? 4 : args.n_steps >= 2 ? 2 : 1;
    args.sums = reinterpret_cast<float *>(args.split + 4 * args.n_groups * 32);
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
    return error != 0 ? error : load_kernel(split_rows<FORMAT::ORDER>);
}

static inline gemv_args gemv_args_of(
    const lam_matmul_args *args, uint64_t row_bytes, void *workspace)
{
    gemv_args own = {};
    uint32_t tiles = 0;

    own.x = args->x;
    own.split = static_cast<uint4 *>(workspace);
    own.row_bytes = row_bytes;
    own.n_rows = args->n_rows;
    own.n_cols = args->n_cols;
    own.accumulate = args->accumulate;
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
