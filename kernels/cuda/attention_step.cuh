/*
 * attention_step: what attention.cu does with 32 positions of a context: brings them into shared
 * memory, takes the scores of 16 rows, weighs them, adds up the values; and what attention_many.cu
 * shares of it.
 *
 * Keys and values lie in shared memory as F16, a position's D values in a row of an odd number of
 * 16-byte pieces, which keeps ldmatrix off its own banks. F16 pages come by cp.async, Q8_0 pages
 * through registers, each value rounded to F16 (2^-11 of it, an eighth of what Q8_0 has lost).
 */
#ifndef LAMINAR_KERNELS_CUDA_ATTENTION_STEP_CUH
#define LAMINAR_KERNELS_CUDA_ATTENTION_STEP_CUH

#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"
#include "kernels/device.h"

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/seqs.cuh"

/* A block makes at most OUT_MAX of the D values of a head. */
enum : uint32_t { TILE_ROWS = 16, STEP = 32, Q8_BYTES = 34 };
enum : uint32_t { PARTS_MAX = 8 }; /* of a context, in one block of attention.cu */
enum { OUT_MAX = 128 };

struct attention_args {
    seq_batch batch;
    uint32_t part_row[SEQ_BATCH]; /* of the first row of a sequence in `splits` */
    const float *q;
    float *out;
    __half *rounded;   /* [T, H, d]: where it goes, in 16 bits, instead of out; or NULL */
    float *splits;     /* [part row, head, LAM_DEVICE_SPLITS_MAX, d + 2]: values, maximum, sum */
    uint32_t *arrived; /* [part row, head, 2]: blocks of a tile that are done; 0 between calls */
    lam_kv_layer kv;
    uint32_t n_heads;
    uint32_t group; /* query heads of a key/value head */
    uint32_t split_tokens;
    float scale; /* of q, to base 2 */
};

/* Sizes of one head: D values, of which a block makes OUT. */
template <int D, int OUT> struct head_shape {
    enum : uint32_t {
        K_PITCH = D * 2 + 16,
        V_PITCH = OUT * 2 + 16,
        V_AT = STEP * K_PITCH,
        STAGE_BYTES = STEP * (K_PITCH + V_PITCH),
        Q_BYTES = D / 16 * 2 * 32 * 16, /* of 16 rows */
        /* What the 99 KiB of the smaller chips have room for. */
        STAGES = D > 128 ? 2 : 3,
        WARPS_MAX = D > 128 ? 2 : 4,
        /* Warps that share a part, each with its own columns of the values. */
        PART_WARPS = 2,
        PART_THREADS_MAX = PARTS_MAX * PART_WARPS * 32,
    };
};

/* Softmax sums of 16 rows: a lane has rows g and g + 8, as ptx.cuh has c. */
template <int OUT> struct state {
    float max[2];
    float sum[2];
    float value[OUT / 8][4];
};

template <int OUT> static __device__ __forceinline__ void clear(state<OUT> &s)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        s.max[i] = -INFINITY;
        s.sum[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < OUT / 8; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            s.value[i][e] = 0;
    }
}

/* What the sums under an old maximum are worth under a new one. */
static __device__ __forceinline__ float rescale(float old_max, float new_max)
{
    return new_max == -INFINITY ? 0.0f : power_of_two(old_max - new_max);
}

/* One value of a merged part. */
static __device__ __forceinline__ float merged(float a, float a_scale, float b, float b_scale)
{
    return fmaf(b, b_scale, a * a_scale);
}

/* The rows of a warp's tile. */
struct tile_rows {
    const lam_seq_rows *seq;
    uint32_t kv_head;
    uint32_t first; /* of the list: row * group + head in the group */
    uint32_t n;     /* length of the list */
};

static __device__ __forceinline__ uint32_t row_in_seq(
    const attention_args &args, const tile_rows &rows, uint32_t i)
{
    uint32_t at = rows.first + i < rows.n ? rows.first + i : rows.n - 1;

    return at / args.group;
}

/* Index of (row of the call, head) of list entry i. */
static __device__ __forceinline__ size_t row_head(
    const attention_args &args, const tile_rows &rows, uint32_t i, uint32_t first_row)
{
    uint32_t at = rows.first + i < rows.n ? rows.first + i : rows.n - 1;

    return static_cast<size_t>(first_row + at / args.group) * args.n_heads +
           rows.kv_head * args.group + at % args.group;
}

/* Splits the pair into f16 and what is left of it. */
static __device__ __forceinline__ void split_pair(float x, float y, uint32_t &high, uint32_t &low)
{
    __half2 whole = __floats2half2_rn(x, y);
    float2 back = __half22float2(whole);
    __half2 rest = __floats2half2_rn(x - back.x, y - back.y);

    high = *reinterpret_cast<const uint32_t *>(&whole);
    low = *reinterpret_cast<const uint32_t *>(&rest);
}

/* q of the tile as operands a of the products, two per 16 values: [D / 16][high, low][lane]. Of
 * these, every n_warps-th from `warp` on: the share of one warp. */
template <int D>
static __device__ __forceinline__ void load_q(const attention_args &args, const tile_rows &rows,
    uint4 *to, uint32_t warp, uint32_t n_warps, uint32_t lane)
{
    const float *q[2];

    for (uint32_t i = 0; i < 2; i++)
        q[i] = args.q + row_head(args, rows, lane / 4 + i * 8, rows.seq->row_begin) * D;
#pragma unroll 4
    for (uint32_t step = warp; step < D / 16; step += n_warps) {
        uint32_t at = step * 16 + lane % 4 * 2;
        uint32_t high[4];
        uint32_t low[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const float *pair = q[i % 2] + at + i / 2 * 8;
            split_pair(pair[0] * args.scale, pair[1] * args.scale, high[i], low[i]);
        }
        to[(step * 2) * 32 + lane] = make_uint4(high[0], high[1], high[2], high[3]);
        to[(step * 2 + 1) * 32 + lane] = make_uint4(low[0], low[1], low[2], low[3]);
    }
}

/* Offset of a position's row from the keys' and the values' base. */
template <int D, bool Q8>
static __device__ __forceinline__ size_t row_offset(
    const attention_args &args, const tile_rows &rows, uint32_t position)
{
    const uint32_t row_bytes = Q8 ? D / 32 * Q8_BYTES : D * 2;
    size_t page = rows.seq->pages[position / args.kv.page_tokens];
    size_t row = (page * args.kv.n_kv_heads + rows.kv_head) * args.kv.page_tokens +
                 position % args.kv.page_tokens;

    return row * row_bytes;
}

/* 32 values of Q8_0, at any even address, to F16 in shared memory. Words around the block that
 * share its 4-byte pieces are read too. */
static __device__ __forceinline__ void widen_block(uint8_t *to, const uint8_t *block)
{
    uint32_t shift = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(block) % 4);
    const uint32_t *from = reinterpret_cast<const uint32_t *>(block - shift);
    uint32_t words[9];
    uint32_t halves[16];

#pragma unroll
    for (uint32_t i = 0; i < 9; i++)
        words[i] = from[i];
    uint32_t head = shift == 0 ? words[0] : words[0] >> 16;
    float d = __half2float(__ushort_as_half(static_cast<unsigned short>(head)));
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) { /* values 4i.. lie 2 bytes behind the block's words */
        uint32_t four = shift == 0 ? __funnelshift_r(words[i], words[i + 1], 16) : words[i + 1];
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            float x = static_cast<float>(static_cast<int8_t>(four >> 16 * j)) * d;
            float y = static_cast<float>(static_cast<int8_t>(four >> (16 * j + 8))) * d;
            __half2 pair = __floats2half2_rn(x, y);
            halves[i * 2 + j] = *reinterpret_cast<const uint32_t *>(&pair);
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        reinterpret_cast<uint4 *>(to)[i] =
            make_uint4(halves[i * 4], halves[i * 4 + 1], halves[i * 4 + 2], halves[i * 4 + 3]);
}

/* N rows of `pieces` (of 16 bytes, or blocks of Q8_0) by one warp; offset: of row lane % N. */
template <uint32_t N, uint32_t PIECES, uint32_t PITCH, bool Q8>
static __device__ __forceinline__ void bring_rows(
    uint8_t *to, const uint8_t *from, size_t offset, uint32_t lane)
{
#pragma unroll(Q8 ? 1 : 16)
    for (uint32_t at = 0; at < N * PIECES; at += 32) {
        uint32_t row = (at + lane) / PIECES;
        uint32_t piece = (at + lane) % PIECES;
        const uint8_t *row_at = from + __shfl_sync(0xFFFFFFFFu, offset, static_cast<int>(row % N));
        if (N * PIECES % 32 != 0 && row >= N)
            continue;
        if (Q8)
            widen_block(to + row * PITCH + piece * 64, row_at + piece * Q8_BYTES);
        else
            copy_async_16(
                static_cast<uint32_t>(__cvta_generic_to_shared(to + row * PITCH + piece * 16)),
                row_at + piece * 16);
    }
}

/* Offset of the lane's row in a warp's share of the step at `begin`; positions behind `last` repeat
 * it. */
template <int D, uint32_t WARPS, bool Q8>
static __device__ __forceinline__ size_t step_offset(const attention_args &args,
    const tile_rows &rows, uint32_t begin, uint32_t last, uint32_t warp, uint32_t lane)
{
    const uint32_t n = STEP / WARPS;

    return row_offset<D, Q8>(args, rows, min(begin + warp * n + lane % n, last));
}

/* Begins to bring a warp's share of a step; offset: as step_offset has it. */
template <int D, int OUT, uint32_t WARPS, bool Q8>
static __device__ __forceinline__ void begin_step(const attention_args &args, uint8_t *stage,
    size_t offset, uint32_t column, uint32_t warp, uint32_t lane)
{
    using shape = head_shape<D, OUT>;
    const uint32_t n = STEP / WARPS;
    const uint32_t values_per_piece = Q8 ? 32 : 8;
    uint32_t first = warp * n;
    const uint8_t *k = static_cast<const uint8_t *>(args.kv.k);
    const uint8_t *v =
        static_cast<const uint8_t *>(args.kv.v) + (Q8 ? column / 32 * Q8_BYTES : column * 2);

    bring_rows<n, D / values_per_piece, shape::K_PITCH, Q8>(
        stage + first * shape::K_PITCH, k, offset, lane);
    bring_rows<n, OUT / values_per_piece, shape::V_PITCH, Q8>(
        stage + shape::V_AT + first * shape::V_PITCH, v, offset, lane);
}

/* scores[j]: 16 rows by positions 8j.. of a step. */
template <int D, int OUT>
static __device__ __forceinline__ void make_scores(
    const uint8_t *stage, const uint4 *q, uint32_t lane, float (&scores)[4][4])
{
    /* Of matrices 0 to 3: positions 0, 0, 8, 8 and values 0, 8, 0, 8. */
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(stage)) +
                  (lane / 16 * 8 + lane % 8) * head_shape<D, OUT>::K_PITCH + lane / 8 % 2 * 16;

#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
#pragma unroll
        for (uint32_t e = 0; e < 4; e++)
            scores[j][e] = 0;
    }
#pragma unroll 4
    for (uint32_t c = 0; c < D / 16; c++) {
        uint4 high = q[(c * 2) * 32 + lane];
        uint4 low = q[(c * 2 + 1) * 32 + lane];
        uint32_t a_high[4] = {high.x, high.y, high.z, high.w};
        uint32_t a_low[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t b[4];
            load_matrices(b, at + half * 16 * head_shape<D, OUT>::K_PITCH + c * 32);
            mma_f16(scores[half * 2], a_high, b[0], b[1]);
            mma_f16(scores[half * 2 + 1], a_high, b[2], b[3]);
            mma_f16(scores[half * 2], a_low, b[0], b[1]);
            mma_f16(scores[half * 2 + 1], a_low, b[2], b[3]);
        }
    }
}

/* Scores become weights under the running maximum; the sums so far are brought under it. */
template <int OUT>
static __device__ __forceinline__ void weigh(
    state<OUT> &s, const uint32_t (&sees)[2], uint32_t begin, uint32_t lane, float (&scores)[4][4])
{
    float scale[2];

#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        float max = s.max[i];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
#pragma unroll
            for (uint32_t e = 0; e < 2; e++) {
                float &score = scores[j][i * 2 + e];
                uint32_t position = begin + j * 8 + lane % 4 * 2 + e;
                score = position <= sees[i] ? score : -INFINITY;
                max = fmaxf(max, score); /* a NaN is not the maximum, but gets into the sum */
            }
        }
#pragma unroll
        for (int step = 1; step <= 2; step *= 2)
            max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFu, max, step));
        scale[i] = rescale(s.max[i], max);
        s.max[i] = max;
        s.sum[i] *= scale[i];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
#pragma unroll
            for (uint32_t e = 0; e < 2; e++) {
                float &score = scores[j][i * 2 + e];
                score = score == -INFINITY ? 0.0f : power_of_two(score - max);
                s.sum[i] += score;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < OUT / 8; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            s.value[i][e] *= scale[e / 2];
    }
}

/* The last position that any row of the tile sees. */
static __device__ __forceinline__ uint32_t last_position(
    const attention_args &args, const tile_rows &rows)
{
    return rows.seq->pos_begin + row_in_seq(args, rows, TILE_ROWS - 1);
}

/* Adds weights times values of the 16 positions at `position` of a step; the sums are of WIDTH
 * values from `column` on. */
template <int D, int OUT, int WIDTH>
static __device__ __forceinline__ void add_values(const uint8_t *stage, uint32_t position,
    uint32_t column, uint32_t lane, const float (&left)[4], const float (&right)[4],
    state<WIDTH> &s)
{
    /* Of matrices 0 to 3: positions 0, 8, 0, 8 and values 0, 0, 8, 8. */
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(stage)) +
                  head_shape<D, OUT>::V_AT + (position + lane % 16) * head_shape<D, OUT>::V_PITCH +
                  lane / 16 * 16 + column * 2;
    uint32_t high[4];
    uint32_t low[4];

    split_pair(left[0], left[1], high[0], low[0]);
    split_pair(left[2], left[3], high[1], low[1]);
    split_pair(right[0], right[1], high[2], low[2]);
    split_pair(right[2], right[3], high[3], low[3]);
#pragma unroll
    for (uint32_t c = 0; c < WIDTH / 16; c++) {
        uint32_t b[4];
        load_matrices_turned(b, at + c * 32);
        mma_f16(s.value[c * 2], high, b[0], b[1]);
        mma_f16(s.value[c * 2 + 1], high, b[2], b[3]);
        mma_f16(s.value[c * 2], low, b[0], b[1]);
        mma_f16(s.value[c * 2 + 1], low, b[2], b[3]);
    }
}

/* One step, complete in shared memory. sees: the last position that rows g and g + 8 see. */
template <int D, int OUT, int WIDTH>
static __device__ __forceinline__ void attend_step(const uint8_t *stage, const uint4 *q,
    const uint32_t (&sees)[2], uint32_t begin, uint32_t column, uint32_t lane, state<WIDTH> &s)
{
    float scores[4][4];

    make_scores<D, OUT>(stage, q, lane, scores);
    weigh<WIDTH>(s, sees, begin, lane, scores);
    add_values<D, OUT, WIDTH>(stage, 0, column, lane, scores[0], scores[1], s);
    add_values<D, OUT, WIDTH>(stage, 16, column, lane, scores[2], scores[3], s);
}

/* Makes the sums of a part those of whole rows. */
template <int OUT> static __device__ __forceinline__ void end_part(state<OUT> &s)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int step = 1; step <= 2; step *= 2)
            s.sum[i] += __shfl_xor_sync(0xFFFFFFFFu, s.sum[i], step);
    }
}

/* visit(KERNELS<D, Q8>()) for the cache's head size and format; its result is a runtime error
 * number. */
template <template <int, bool> class KERNELS, bool Q8, typename VISITOR>
static int for_head_dim(uint32_t head_dim, const VISITOR &visit)
{
    switch (head_dim) {
    case 32:
        return visit(KERNELS<32, Q8>());
    case 64:
        return visit(KERNELS<64, Q8>());
    case 96:
        return visit(KERNELS<96, Q8>());
    case 128:
        return visit(KERNELS<128, Q8>());
    case 256:
        return visit(KERNELS<256, Q8>());
    default:
        return cudaErrorInvalidValue;
    }
}

template <template <int, bool> class KERNELS, typename VISITOR>
static int for_cache(const lam_kv_layer &kv, const VISITOR &visit)
{
    return kv.dtype == LAM_Q8_0 ? for_head_dim<KERNELS, true>(kv.head_dim, visit)
                                : for_head_dim<KERNELS, false>(kv.head_dim, visit);
}

/* visit for all of them; the first error, or 0. */
template <template <int, bool> class KERNELS, typename VISITOR>
static int for_every_cache(const VISITOR &visit)
{
    static const uint32_t sizes[] = {32, 64, 96, 128, 256};
    int error = 0;

    for (uint32_t size : sizes) {
        error = error != 0 ? error : for_head_dim<KERNELS, false>(size, visit);
        error = error != 0 ? error : for_head_dim<KERNELS, true>(size, visit);
    }
    return error;
}

/* Calls of more than LAM_DEVICE_SPLIT_ROWS rows: one batch of sequences. */
int attention_many(CUstream_st *stream, const lam_cuda_chip *chip, const attention_args &args,
    uint32_t n_seqs, uint32_t rows_max);
int prepare_attention_many(void);

#endif
