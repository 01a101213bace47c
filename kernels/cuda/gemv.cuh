/*
 * gemv: out[t, n] (+)= sum_k x[t, k] * w[n, k] for 1 to 8 rows t: the product of decoding.
 *
 * Bytes: the packed matrix, once: bound by memory for few rows (2 operations per weight and row; 8
 * rows of a 4-bit format are bound by f32 arithmetic). Activations stay f32 and weights are exact:
 * small integers times f32 scales, so results differ from the reference by the rounding of f32 sums
 * alone.
 *
 * How. A warp owns NR neighbouring weight rows (a "set") and walks along them in steps of STEP_K
 * columns. The bytes of a step come through cp.async into the warp's own ring of STAGES slots, in
 * aligned pieces of 16 bytes whatever the alignment of the row; lanes then read their part of the
 * slot. The activations lie in shared memory for the whole block, 36 floats per 32: the gap keeps
 * lanes off each other's banks and holds the sums that formats with an offset need.
 *
 * The long axis may be cut into slices, one warp each, added in order at the end. The order of all
 * additions depends on n_cols and the format only: a row's bits do not depend on the other rows of
 * the call, nor on the other matrices.
 *
 * Small integers become floats without conversions (those run at a quarter of the rate): their bits
 * are put under a fixed exponent, which makes 16 + q, 32 + q or 64 + q, and the offset is taken out
 * once per block with the sum of the activations. This costs about 3 bits of the 24.
 *
 * Up to 15 bytes before and after a row are read, never used.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/dispatch.cuh"

enum {
    NR = 4,       /* weight rows of a warp */
    X_PITCH = 36, /* floats per 32 columns */
    ROWS_MAX = 8, /* rows of a launch */
    MATS_MAX = 3,
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

/* N words from an offset that is a multiple of ALIGN. With ALIGN 2, up to 4 bytes more are read. */
template <int ALIGN, int N>
static __device__ __forceinline__ void smem_words(uint32_t at, uint32_t (&words)[N])
{
    if (ALIGN == 16) {
#pragma unroll
        for (int i = 0; i + 4 <= N; i += 4) {
            uint4 four = *reinterpret_cast<const uint4 *>(smem_at(at + 4 * i));
            words[i] = four.x;
            words[i + 1] = four.y;
            words[i + 2] = four.z;
            words[i + 3] = four.w;
        }
    } else if (ALIGN == 4) {
#pragma unroll
        for (int i = 0; i < N; i++)
            words[i] = smem_u32(at + 4 * i);
    } else {
        uint32_t whole = at & ~3u;
        uint32_t shift = (at & 2) * 8;
        uint32_t low = smem_u32(whole);
#pragma unroll
        for (int i = 0; i < N; i++) {
            uint32_t high = smem_u32(whole + 4 * i + 4);
            words[i] = __funnelshift_r(low, high, shift);
            low = high;
        }
    }
}

/* Moves bit FROM of a word to bit TO. */
template <int FROM, int TO> static __device__ __forceinline__ uint32_t place(uint32_t word)
{
    return FROM < TO ? word << (TO > FROM ? TO - FROM : 0) : word >> (FROM > TO ? FROM - TO : 0);
}

/* 16 + the four bits from bit AT. */
template <int AT> static __device__ __forceinline__ float float_of_4(uint32_t word)
{
    return __uint_as_float((place<AT, 19>(word) & 0x00780000u) | 0x41800000u);
}

/* 32 + the four bits from bit AT, + 16 times bit FIFTH_AT of `fifth`. */
template <int AT, int FIFTH_AT>
static __device__ __forceinline__ float float_of_5(uint32_t word, uint32_t fifth)
{
    uint32_t bits = (place<AT, 18>(word) & 0x003C0000u) | 0x42000000u;

    return __uint_as_float((place<FIFTH_AT, 22>(fifth) & 0x00400000u) | bits);
}

/* 64 + the four bits from bit AT, + 16 times the two bits from HIGH_AT of `high`. */
template <int AT, int HIGH_AT>
static __device__ __forceinline__ float float_of_6(uint32_t word, uint32_t high)
{
    uint32_t bits = (place<AT, 17>(word) & 0x001E0000u) | 0x42800000u;

    return __uint_as_float((place<HIGH_AT, 21>(high) & 0x00600000u) | bits);
}

struct gemv_args {
    struct {
        const uint8_t *weight;
        float *out;
        uint64_t out_stride;
        uint32_t n_out;
        uint32_t sets_end; /* sets of this matrix and those before it */
    } mats[MATS_MAX];
    const float *x;
    uint64_t row_bytes;
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_steps;
    uint32_t n_slices;
    uint32_t chunk_steps; /* steps whose activations are in shared memory at once */
    uint32_t stages_at;   /* offsets in shared memory */
    uint32_t parts_at;
    bool accumulate;
};

/* The rows of a set. */
struct row_set {
    const uint8_t *weight;
    float *out;
    uint64_t out_stride;
    uint32_t n_valid;
};

static __device__ __forceinline__ row_set find_set(const gemv_args &args, uint32_t set)
{
    int m = set < args.mats[0].sets_end ? 0 : set < args.mats[1].sets_end ? 1 : 2;
    uint32_t begin = m == 0 ? 0 : m == 1 ? args.mats[0].sets_end : args.mats[1].sets_end;
    uint32_t n = (set - begin) * NR;
    row_set rows;

    rows.weight = args.mats[m].weight + n * args.row_bytes;
    rows.out = args.mats[m].out + n;
    rows.out_stride = args.mats[m].out_stride;
    rows.n_valid = args.mats[m].n_out - n < NR ? args.mats[m].n_out - n : NR;
    return rows;
}

static __device__ __forceinline__ const uint8_t *row_of(
    const gemv_args &args, const row_set &rows, uint32_t n)
{
    return rows.weight + (n < rows.n_valid ? n : rows.n_valid - 1) * args.row_bytes;
}

static __device__ __forceinline__ void copy_async(uint32_t to, const uint8_t *from)
{
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(smem_at(to)));

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

/* Begins to copy one step of a set into the slot at `to`. */
template <typename FORMAT>
static __device__ __forceinline__ void begin_step(
    const gemv_args &args, const row_set &rows, uint32_t step, uint32_t to, uint32_t lane)
{
    uint64_t begin = static_cast<uint64_t>(step) * FORMAT::STEP_BYTES;
    uint64_t left = args.row_bytes - begin;
    uint32_t n_bytes = left < FORMAT::STEP_BYTES ? static_cast<uint32_t>(left) : FORMAT::STEP_BYTES;

#pragma unroll
    for (uint32_t n = 0; n < NR; n++) {
        const uint8_t *from = row_of(args, rows, n) + begin;
        uint32_t skew = FORMAT::ALIGN == 16 ? 0 : reinterpret_cast<uintptr_t>(from) % 16;
#pragma unroll
        for (uint32_t at = 0; at < FORMAT::SLOT_BYTES; at += 32 * 16) {
            uint32_t mine = at + lane * 16;
            if (mine < n_bytes + skew)
                copy_async(to + n * FORMAT::SLOT_BYTES + mine, from - skew + mine);
        }
    }
}

/* Adds one step of a set to the sums. slot, x: offsets in shared memory. */
template <typename FORMAT, int R>
static __device__ __forceinline__ void add_step(const gemv_args &args, const row_set &rows,
    uint32_t step, uint32_t slot, uint32_t x, uint32_t x_row_bytes, uint32_t lane,
    float (&sums)[NR][R])
{
    FORMAT packed[NR];
    uint32_t left = args.n_cols - step * FORMAT::STEP_K;

    x += FORMAT::x_offset(lane) * 4;
#pragma unroll
    for (uint32_t n = 0; n < NR; n++) {
        uintptr_t from = reinterpret_cast<uintptr_t>(row_of(args, rows, n)) +
                         static_cast<uint64_t>(step) * FORMAT::STEP_BYTES;
        uint32_t skew = FORMAT::ALIGN == 16 ? 0 : static_cast<uint32_t>(from % 16);
        packed[n].fetch(slot + n * FORMAT::SLOT_BYTES + skew, lane, left);
    }
#pragma unroll
    for (int part = 0; part < FORMAT::PARTS; part++) {
        float dots[NR][R] = {};
#pragma unroll
        for (int c = part * FORMAT::PART_FOURS; c < (part + 1) * FORMAT::PART_FOURS; c++) {
            float w[NR][4];
#pragma unroll
            for (int n = 0; n < NR; n++)
                packed[n].four(c, w[n]);
#pragma unroll
            for (int r = 0; r < R; r++) {
                float4 four =
                    *reinterpret_cast<const float4 *>(smem_at(x + r * x_row_bytes + c * 16));
#pragma unroll
                for (int n = 0; n < NR; n++) {
                    dots[n][r] = fmaf(w[n][0], four.x, dots[n][r]);
                    dots[n][r] = fmaf(w[n][1], four.y, dots[n][r]);
                    dots[n][r] = fmaf(w[n][2], four.z, dots[n][r]);
                    dots[n][r] = fmaf(w[n][3], four.w, dots[n][r]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            float x_sum = 0;
            if (FORMAT::OFFSET) {
                float2 halves =
                    *reinterpret_cast<const float2 *>(smem_at(x + r * x_row_bytes + 32 * 4));
                x_sum = FORMAT::PARTS == 1 ? halves.x + halves.y : part == 0 ? halves.x : halves.y;
            }
#pragma unroll
            for (int n = 0; n < NR; n++)
                sums[n][r] = packed[n].scaled(part, dots[n][r], x_sum, sums[n][r]);
        }
    }
}

/* Activations of steps [step, step + n) of all R rows, zeros beyond the ends. */
template <typename FORMAT, int R>
static __device__ __forceinline__ void load_x(
    const gemv_args &args, uint32_t step, uint32_t n_groups, uint32_t x_row_bytes)
{
    uint32_t lane = threadIdx.x % 32;

    for (uint32_t r = 0; r < R; r++) {
        const float *row = args.x + static_cast<size_t>(r) * args.n_cols;
#pragma unroll 8
        for (uint32_t group = threadIdx.x / 32; group < n_groups; group += blockDim.x / 32) {
            uint32_t k = step * FORMAT::STEP_K + group * 32 + lane;
            float value = r < args.n_rows && k < args.n_cols ? row[k] : 0.0f;
            float *to = reinterpret_cast<float *>(
                smem_at(r * x_row_bytes + group * X_PITCH * static_cast<uint32_t>(sizeof(float))));
            to[lane] = value;
            if (FORMAT::OFFSET) {
                for (int step_size = 8; step_size > 0; step_size /= 2)
                    value += __shfl_xor_sync(0xFFFFFFFFu, value, step_size);
                if (lane % 16 == 0)
                    to[32 + lane / 16] = value;
            }
        }
    }
}

/* Sums over the lanes; lane r * NR + n keeps that of (n, r). */
template <int R>
static __device__ __forceinline__ float reduce_lanes(float (&sums)[NR][R], uint32_t lane)
{
    float mine = 0;

#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
        for (int n = 0; n < NR; n++) {
            float sum = sums[n][r];
#pragma unroll
            for (int step = 16; step > 0; step /= 2)
                sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
            if (lane == static_cast<uint32_t>(r * NR + n))
                mine = sum;
        }
    }
    return mine;
}

/* The set's sums of all slices, in order, into out. Called by the whole block. */
template <int R>
static __device__ __forceinline__ void finish_set(
    const gemv_args &args, const row_set &rows, uint32_t round, bool inside, float (&sums)[NR][R])
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    float mine = reduce_lanes<R>(sums, lane);

    if (args.n_slices > 1) { /* two buffers in turn: one barrier a round suffices */
        float *parts = reinterpret_cast<float *>(smem_at(args.parts_at)) +
                       (round % 2 * (blockDim.x / 32) + warp) * (NR * R) + lane;
        if (lane < NR * R)
            *parts = mine;
        __syncthreads();
        if (warp % args.n_slices != 0)
            return;
        if (lane < NR * R) {
            for (uint32_t slice = 1; slice < args.n_slices; slice++)
                mine += parts[slice * (NR * R)];
        }
    }
    uint32_t n = lane % NR;
    uint32_t r = lane / NR;
    if (inside && n < rows.n_valid && r < args.n_rows && lane < NR * R) {
        float *out = rows.out + r * rows.out_stride + n;
        *out = args.accumulate ? *out + mine : mine;
    }
}

/* Grid: any number of blocks; they share the sets in rounds. */
template <typename FORMAT, int R>
static __global__ void __launch_bounds__(R <= 2 ? 512 : 256, 1) gemv_rows(const gemv_args args)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    uint32_t slice = warp % args.n_slices;
    uint32_t sets_per_block = blockDim.x / 32 / args.n_slices;
    uint32_t n_sets = args.mats[MATS_MAX - 1].sets_end;
    uint32_t n_units = (n_sets + sets_per_block - 1) / sets_per_block;
    uint32_t n_rounds = (n_units - blockIdx.x + gridDim.x - 1) / gridDim.x;
    uint32_t first = blockIdx.x * sets_per_block + warp / args.n_slices;
    uint32_t stride = gridDim.x * sets_per_block;
    uint32_t ring = args.stages_at + warp * (FORMAT::STAGES * NR * FORMAT::SLOT_BYTES);
    uint32_t x_row_bytes = args.chunk_steps * FORMAT::STEP_GROUPS * X_PITCH * 4;
    uint32_t ahead_round = 0;
    uint32_t ahead_step = slice;
    uint32_t ahead_stage = 0;
    uint32_t stage = 0;

    auto begin_next = [&]() {
        uint32_t set = first + ahead_round * stride;
        if (ahead_round < n_rounds && set < n_sets)
            begin_step<FORMAT>(args, find_set(args, set), ahead_step,
                ring + ahead_stage * (NR * FORMAT::SLOT_BYTES), lane);
        asm volatile("cp.async.commit_group;" ::: "memory");
        ahead_stage = ahead_stage + 1 == FORMAT::STAGES ? 0 : ahead_stage + 1;
        ahead_step += args.n_slices;
        if (ahead_step >= args.n_steps) {
            ahead_step = slice;
            ahead_round++;
        }
    };

    for (int i = 0; i < FORMAT::STAGES - 1; i++)
        begin_next();
    for (uint32_t round = 0; round < n_rounds; round++) {
        uint32_t set = first + round * stride;
        bool inside = set < n_sets;
        row_set rows = find_set(args, inside ? set : 0);
        float sums[NR][R] = {};
        for (uint32_t chunk = 0; chunk < args.n_steps; chunk += args.chunk_steps) {
            uint32_t left = args.n_steps - chunk;
            uint32_t n_here = left < args.chunk_steps ? left : args.chunk_steps;
            if (round == 0 || args.chunk_steps < args.n_steps) {
                __syncthreads();
                load_x<FORMAT, R>(args, chunk, n_here * FORMAT::STEP_GROUPS, x_row_bytes);
                __syncthreads();
            }
            uint32_t skip = (slice + args.n_slices - chunk % args.n_slices) % args.n_slices;
            for (uint32_t i = skip; i < n_here; i += args.n_slices) {
                asm volatile("cp.async.wait_group %0;" ::"n"(FORMAT::STAGES - 2) : "memory");
                __syncwarp();
                begin_next();
                if (inside)
                    add_step<FORMAT, R>(args, rows, chunk + i,
                        ring + stage * (NR * FORMAT::SLOT_BYTES),
                        i * FORMAT::STEP_GROUPS * X_PITCH * 4, x_row_bytes, lane, sums);
                stage = stage + 1 == FORMAT::STAGES ? 0 : stage + 1;
            }
        }
        finish_set<R>(args, rows, round, inside, sums);
    }
}

/* Shared memory of a launch, and what of it depends on the number of warps. */
template <typename FORMAT, int R> static uint32_t gemv_smem(gemv_args *args, uint32_t n_warps)
{
    args->stages_at = R * args->chunk_steps * FORMAT::STEP_GROUPS * X_PITCH * 4;
    args->parts_at = args->stages_at + n_warps * FORMAT::STAGES * NR * FORMAT::SLOT_BYTES;
    return args->parts_at + 2 * n_warps * NR * R * static_cast<uint32_t>(sizeof(float));
}

template <typename FORMAT, int R>
static int launch_gemv(CUstream_st *stream, const lam_cuda_chip *chip, gemv_args args)
{
    uint32_t n_warps = 8;

    args.n_steps = div_up(args.n_cols, FORMAT::STEP_K);
    args.n_slices = args.n_steps >= 2 * FORMAT::SLICES_MAX ? FORMAT::SLICES_MAX : 1;
    args.chunk_steps = args.n_steps;
    uint32_t bytes = gemv_smem<FORMAT, R>(&args, 16);
    if (R <= 2 && bytes <= chip->block_smem_bytes &&
        2 * (gemv_smem<FORMAT, R>(&args, 8) + 1024) > chip->sm_smem_bytes)
        n_warps = 16;
    bytes = gemv_smem<FORMAT, R>(&args, n_warps);
    while (bytes > chip->block_smem_bytes && args.chunk_steps > 1) {
        args.chunk_steps--;
        bytes = gemv_smem<FORMAT, R>(&args, n_warps);
    }
    while (bytes > chip->block_smem_bytes) {
        n_warps /= 2;
        assert(n_warps >= args.n_slices);
        bytes = gemv_smem<FORMAT, R>(&args, n_warps);
    }
    uint32_t per_sm = chip->sm_smem_bytes / (bytes + 1024);
    uint32_t per_sm_max = R > 2 ? 1 : 16 / n_warps; /* registers of R > 2: one block */
    per_sm = per_sm < 1 ? 1 : per_sm > per_sm_max ? per_sm_max : per_sm;
    uint32_t n_units = div_up(args.mats[MATS_MAX - 1].sets_end, n_warps / args.n_slices);
    uint32_t n_rounds = div_up(n_units, chip->n_sms * per_sm);
    gemv_rows<FORMAT, R><<<div_up(n_units, n_rounds), n_warps * 32, bytes, stream>>>(args);
    return cudaGetLastError();
}

template <typename FORMAT>
static int gemv_of_format(CUstream_st *stream, const lam_cuda_chip *chip, const gemv_args &args)
{
    if (args.n_rows == 1)
        return launch_gemv<FORMAT, 1>(stream, chip, args);
    if (args.n_rows == 2)
        return launch_gemv<FORMAT, 2>(stream, chip, args);
    if (args.n_rows <= 4)
        return launch_gemv<FORMAT, 4>(stream, chip, args);
    return launch_gemv<FORMAT, ROWS_MAX>(stream, chip, args);
}

template <typename FORMAT> static int prepare_gemv(const lam_cuda_chip *chip)
{
    int error = load_kernel_with(gemv_rows<FORMAT, 1>, chip->block_smem_bytes);

    if (error == 0)
        error = load_kernel_with(gemv_rows<FORMAT, 2>, chip->block_smem_bytes);
    if (error == 0)
        error = load_kernel_with(gemv_rows<FORMAT, 4>, chip->block_smem_bytes);
    if (error == 0)
        error = load_kernel_with(gemv_rows<FORMAT, ROWS_MAX>, chip->block_smem_bytes);
    return error;
}

static inline gemv_args gemv_args_of(const lam_matmul_args *args, uint64_t row_bytes)
{
    gemv_args own = {};
    uint32_t sets = 0;

    own.x = args->x;
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
        sets += m < args->n_mats ? div_up(mat->n_out, NR) : 0;
        own.mats[m].sets_end = sets;
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
