/*
 * attention: softmax(q K^T * scale) V over paged F16 keys and values, on tensor cores.
 *
 * Bytes: the keys and values that a row sees, once per key/value head: few rows are bound by
 * memory. Operations: 4 * d per row, head and position, done twice (see below): prompts are bound
 * by the tensor cores.
 *
 * How. The rows of a sequence times the query heads that share a key/value head form one list; a
 * warp takes 16 of it. The context is cut into parts of split_tokens positions, counted from 0. In
 * a part the warp walks over 32 positions at a time with a running maximum and sum; parts are merged
 * in order. Calls of few rows give every part to a warp of its own and merge in a second kernel,
 * others let one warp do all parts: the arithmetic is the same, so a row's bits do not depend on
 * which way was taken, nor on other rows.
 *
 * Precision: q and the softmax weights are split in two f16 (22 bits), keys and values are f16 as
 * they lie: results are as good as in f32. No shared memory but for q: which lane holds which of
 * the head's values is free as long as both operands agree, so that 8- and 16-byte loads from the
 * pages are already in the order that the tensor cores want, and four positions of V are
 * interleaved by byte permutation.
 */
#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"
#include "kernels/device.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/seqs.cuh"

enum { WARPS = 4, TILE_ROWS = 16, STEP = 32, PAGE_TOKENS_MIN = 16, OUT_MAX = 128 };

struct attention_args {
    seq_batch batch;
    uint32_t part_row[SEQ_BATCH]; /* of the first row of a sequence in `splits` */
    const float *q;
    float *out;
    float *splits; /* [part row, head, LAM_DEVICE_SPLITS_MAX, d + 2]: values, maximum, sum */
    lam_kv_layer kv;
    uint32_t n_heads;
    uint32_t group; /* query heads of a key/value head */
    uint32_t split_tokens;
    float scale; /* of q, to base 2 */
};

/* Softmax sums of 16 rows: a lane has rows g and g + 8, of every 32 values 8t.. to 8t + 7. */
template <int OUT> struct state {
    float max[2];
    float sum[2];
    float value[OUT / 8][4]; /* [i * 4 + j]: see out_value */
};

/* Which value of the head value[tile][e] is. */
static __device__ __forceinline__ uint32_t out_value(uint32_t tile, uint32_t e, uint32_t t)
{
    return tile / 4 * 32 + t * 8 + e % 2 * 4 + tile % 4;
}

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
    return new_max == -INFINITY ? 0.0f : exp2f(old_max - new_max);
}

/* One value of a merged part. */
static __device__ __forceinline__ float merged(float a, float a_scale, float b, float b_scale)
{
    return fmaf(b, b_scale, a * a_scale);
}

template <int OUT>
static __device__ __forceinline__ void merge(state<OUT> &to, const state<OUT> &from)
{
    float to_scale[2];
    float from_scale[2];

#pragma unroll
    for (int i = 0; i < 2; i++) {
        float max = fmaxf(to.max[i], from.max[i]);
        to_scale[i] = rescale(to.max[i], max);
        from_scale[i] = rescale(from.max[i], max);
        to.max[i] = max;
        to.sum[i] = merged(to.sum[i], to_scale[i], from.sum[i], from_scale[i]);
    }
#pragma unroll
    for (int i = 0; i < OUT / 8; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            to.value[i][e] =
                merged(to.value[i][e], to_scale[e / 2], from.value[i][e], from_scale[e / 2]);
    }
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

/* q of the tile as operands a of the products, two per 16 values: [D / 16][high, low][lane]. Every
 * lane reads what it wrote. */
template <int D>
static __device__ __forceinline__ void load_q(
    const attention_args &args, const tile_rows &rows, uint4 *to, uint32_t lane)
{
    const float *q[2];

    for (uint32_t i = 0; i < 2; i++)
        q[i] = args.q + row_head(args, rows, lane / 4 + i * 8, rows.seq->row_begin) * D;
#pragma unroll 4
    for (uint32_t step = 0; step < D / 16; step++) {
        uint32_t at = step / 2 * 32 + lane % 4 * 8 + step % 2 * 4;
        uint32_t high[4];
        uint32_t low[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const float *pair = q[i % 2] + at + i / 2 * 2;
            split_pair(pair[0] * args.scale, pair[1] * args.scale, high[i], low[i]);
        }
        to[(step * 2) * 32 + lane] = make_uint4(high[0], high[1], high[2], high[3]);
        to[(step * 2 + 1) * 32 + lane] = make_uint4(low[0], low[1], low[2], low[3]);
    }
}

/* The 16-position piece of a page that begins at `position`. */
static __device__ __forceinline__ const __half *page_piece(
    const attention_args &args, const tile_rows &rows, const void *base, uint32_t position)
{
    size_t page = rows.seq->pages[position / args.kv.page_tokens];
    size_t slot = (page * args.kv.n_kv_heads + rows.kv_head) * args.kv.page_tokens +
                  position % args.kv.page_tokens / 16 * 16;

    return static_cast<const __half *>(base) + slot * args.kv.head_dim;
}

/* scores[j]: 16 rows by positions 8j.. of the step at `begin`. */
template <int D>
static __device__ __forceinline__ void make_scores(const attention_args &args,
    const tile_rows &rows, const uint4 *q, uint32_t begin, uint32_t last, uint32_t lane,
    float (&scores)[4][4])
{
    const uint4 *keys[4];

#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        uint32_t position = min(begin + j * 8 + lane / 4, last);
        const __half *piece = page_piece(args, rows, args.kv.k, position);
        keys[j] = reinterpret_cast<const uint4 *>(piece + position % 16 * D) + lane % 4;
        for (uint32_t e = 0; e < 4; e++)
            scores[j][e] = 0;
    }
#pragma unroll
    for (uint32_t c = 0; c < D / 32; c++) {
        uint4 k[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            k[j] = keys[j][c * 4];
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            uint4 high = q[((c * 2 + half) * 2) * 32 + lane];
            uint4 low = q[((c * 2 + half) * 2 + 1) * 32 + lane];
            uint32_t a_high[4] = {high.x, high.y, high.z, high.w};
            uint32_t a_low[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                uint32_t b0 = half == 0 ? k[j].x : k[j].z;
                uint32_t b1 = half == 0 ? k[j].y : k[j].w;
                mma_f16(scores[j], a_high, b0, b1);
                mma_f16(scores[j], a_low, b0, b1);
            }
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
                max = score > max || isnan(score) ? score : max;
            }
        }
#pragma unroll
        for (int step = 1; step <= 2; step *= 2) {
            float other = __shfl_xor_sync(0xFFFFFFFFu, max, step);
            max = other > max || isnan(other) ? other : max;
        }
        scale[i] = rescale(s.max[i], max);
        s.max[i] = max;
        s.sum[i] *= scale[i];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
#pragma unroll
            for (uint32_t e = 0; e < 2; e++) {
                float &score = scores[j][i * 2 + e];
                score = max == -INFINITY ? 0.0f : exp2f(score - max);
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

/* Half `odd` of a and of b, side by side. */
static __device__ __forceinline__ uint32_t pair_of(uint32_t a, uint32_t b, bool odd)
{
    return __byte_perm(a, b, odd ? 0x7632 : 0x5410);
}

/* Adds weights times values of 16 positions at `begin`; columns: values [column, column + OUT). */
template <int D, int OUT>
static __device__ __forceinline__ void add_values(const attention_args &args, const tile_rows &rows,
    uint32_t begin, uint32_t last, uint32_t column, uint32_t lane, const float (&left)[4],
    const float (&right)[4], state<OUT> &s)
{
    const uint2 *values[4];
    bool inside[4];
    uint32_t high[4];
    uint32_t low[4];

#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t position = begin + lane % 4 * 2 + i / 2 * 8 + i % 2;
        inside[i] = position <= last; /* behind it may lie anything, also NaN: 0 * NaN is no 0 */
        position = min(position, last);
        const __half *piece = page_piece(args, rows, args.kv.v, position);
        values[i] = reinterpret_cast<const uint2 *>(piece + position % 16 * D + column) + lane / 4;
    }
    split_pair(left[0], left[1], high[0], low[0]);
    split_pair(left[2], left[3], high[1], low[1]);
    split_pair(right[0], right[1], high[2], low[2]);
    split_pair(right[2], right[3], high[3], low[3]);
#pragma unroll
    for (uint32_t c = 0; c < OUT / 32; c++) {
        uint2 v[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            v[i] = inside[i] ? values[i][c * 8] : make_uint2(0, 0);
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            bool odd = j % 2 == 1;
            uint32_t b0 = j < 2 ? pair_of(v[0].x, v[1].x, odd) : pair_of(v[0].y, v[1].y, odd);
            uint32_t b1 = j < 2 ? pair_of(v[2].x, v[3].x, odd) : pair_of(v[2].y, v[3].y, odd);
            mma_f16(s.value[c * 4 + j], high, b0, b1);
            mma_f16(s.value[c * 4 + j], low, b0, b1);
        }
    }
}

/* One part of the context, up to position `last` at most; the sums are of whole rows after it. */
template <int D, int OUT>
static __device__ __forceinline__ void attend_part(const attention_args &args,
    const tile_rows &rows, const uint4 *q, uint32_t part, uint32_t last, uint32_t column,
    uint32_t lane, state<OUT> &s)
{
    uint32_t begin = part * args.split_tokens;
    uint32_t end = min(begin + args.split_tokens, last + 1);
    uint32_t sees[2];

    clear(s);
    for (uint32_t i = 0; i < 2; i++)
        sees[i] = rows.seq->pos_begin + row_in_seq(args, rows, lane / 4 + i * 8);
    for (; begin < end; begin += STEP) {
        float scores[4][4];
        make_scores<D>(args, rows, q, begin, last, lane, scores);
        weigh<OUT>(s, sees, begin, lane, scores);
        add_values<D, OUT>(args, rows, begin, last, column, lane, scores[0], scores[1], s);
        if (begin + 16 <= last)
            add_values<D, OUT>(args, rows, begin + 16, last, column, lane, scores[2], scores[3], s);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int step = 1; step <= 2; step *= 2)
            s.sum[i] += __shfl_xor_sync(0xFFFFFFFFu, s.sum[i], step);
    }
}

/* The last position that any row of the tile sees. */
static __device__ __forceinline__ uint32_t last_position(
    const attention_args &args, const tile_rows &rows)
{
    return rows.seq->pos_begin + row_in_seq(args, rows, TILE_ROWS - 1);
}

/* All parts in one warp. Grid: (tiles / WARPS, key/value heads * (D / OUT), sequences). */
template <int D, int OUT>
static __global__ void __launch_bounds__(WARPS * 32) attend_whole(const attention_args args)
{
    extern __shared__ uint4 q_of_warps[];
    uint32_t warp = threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    uint32_t column = blockIdx.y % (D / OUT) * OUT;
    uint4 *q = q_of_warps + warp * (D / 16 * 2 * 32);
    tile_rows rows;
    state<OUT> all;

    let_successors_begin();
    wait_for_predecessors();
    rows.seq = &args.batch.seqs[blockIdx.z];
    rows.kv_head = blockIdx.y / (D / OUT);
    rows.first = (blockIdx.x * WARPS + warp) * TILE_ROWS;
    rows.n = rows.seq->n_rows * args.group;
    if (rows.first >= rows.n)
        return;
    load_q<D>(args, rows, q, lane);
    clear(all);
    uint32_t last = last_position(args, rows);
    for (uint32_t part = 0; part * args.split_tokens <= last; part++) {
        state<OUT> s;
        attend_part<D, OUT>(args, rows, q, part, last, column, lane, s);
        merge(all, s);
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        if (rows.first + lane / 4 + i * 8 >= rows.n)
            continue;
        size_t at = row_head(args, rows, lane / 4 + i * 8, rows.seq->row_begin) * D + column;
#pragma unroll
        for (uint32_t tile = 0; tile < OUT / 8; tile++) {
#pragma unroll
            for (uint32_t e = 0; e < 2; e++)
                args.out[at + out_value(tile, e, lane % 4)] =
                    all.value[tile][i * 2 + e] / all.sum[i];
        }
    }
}

/* A warp per part, its sums into args.splits. Grid as above, with parts / WARPS * tiles in front.
 * */
template <int D, int OUT>
static __global__ void __launch_bounds__(WARPS * 32)
    attend_parts(const attention_args args, uint32_t n_part_blocks)
{
    extern __shared__ uint4 q_of_warps[];
    uint32_t warp = threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    uint32_t column = blockIdx.y % (D / OUT) * OUT;
    uint32_t part = blockIdx.x % n_part_blocks * WARPS + warp;
    uint4 *q = q_of_warps + warp * (D / 16 * 2 * 32);
    tile_rows rows;
    state<OUT> s;

    let_successors_begin();
    wait_for_predecessors();
    rows.seq = &args.batch.seqs[blockIdx.z];
    rows.kv_head = blockIdx.y / (D / OUT);
    rows.first = blockIdx.x / n_part_blocks * TILE_ROWS;
    rows.n = rows.seq->n_rows * args.group;
    if (rows.first >= rows.n)
        return;
    uint32_t last = last_position(args, rows);
    if (part * args.split_tokens > last)
        return;
    load_q<D>(args, rows, q, lane);
    attend_part<D, OUT>(args, rows, q, part, last, column, lane, s);
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        if (rows.first + lane / 4 + i * 8 >= rows.n)
            continue;
        size_t row = row_head(args, rows, lane / 4 + i * 8, args.part_row[blockIdx.z]);
        float *to = args.splits + (row * LAM_DEVICE_SPLITS_MAX + part) * (D + 2);
#pragma unroll
        for (uint32_t tile = 0; tile < OUT / 8; tile++) {
#pragma unroll
            for (uint32_t e = 0; e < 2; e++)
                to[column + out_value(tile, e, lane % 4)] = s.value[tile][i * 2 + e];
        }
        if (lane % 4 == 0) {
            to[D] = s.max[i];
            to[D + 1] = s.sum[i];
        }
    }
}

/* Merges the parts of one (row, head) in order. Grid: (rows, heads, sequences), D threads. */
template <int D> static __global__ void __launch_bounds__(D) merge_parts(const attention_args args)
{
    const lam_seq_rows &seq = args.batch.seqs[blockIdx.z];
    float max = -INFINITY;
    float sum = 0;
    float value = 0;

    let_successors_begin();
    wait_for_predecessors();
    if (blockIdx.x >= seq.n_rows)
        return;
    uint32_t n_parts = (seq.pos_begin + blockIdx.x) / args.split_tokens + 1;
    size_t row = static_cast<size_t>(args.part_row[blockIdx.z] + blockIdx.x) * args.n_heads;
    const float *from = args.splits + (row + blockIdx.y) * LAM_DEVICE_SPLITS_MAX * (D + 2);
    for (uint32_t part = 0; part < n_parts; part++, from += D + 2) {
        float new_max = fmaxf(max, from[D]);
        float scale = rescale(max, new_max);
        float from_scale = rescale(from[D], new_max);
        max = new_max;
        sum = merged(sum, scale, from[D + 1], from_scale);
        value = merged(value, scale, from[threadIdx.x], from_scale);
    }
    size_t at = static_cast<size_t>(seq.row_begin + blockIdx.x) * args.n_heads + blockIdx.y;
    args.out[at * D + threadIdx.x] = value / sum;
}

template <int D> struct head_kernels {
    enum {
        OUT = D < OUT_MAX ? D : OUT_MAX,
        SMEM_BYTES = WARPS * D / 16 * 2 * 32 * 16,
    };

    static int prepare(void)
    {
        int error = load_kernel_with(attend_whole<D, OUT>, SMEM_BYTES);

        error = error != 0 ? error : load_kernel_with(attend_parts<D, OUT>, SMEM_BYTES);
        return error != 0 ? error : load_kernel(merge_parts<D>);
    }

    static int whole(CUstream_st *stream, const lam_cuda_chip *chip, const attention_args &args,
        uint32_t n_seqs, uint32_t rows_max)
    {
        dim3 grid(div_up(static_cast<uint64_t>(rows_max) * args.group, WARPS * TILE_ROWS),
            args.kv.n_kv_heads * (D / OUT), n_seqs);

        return launch(stream, chip, attend_whole<D, OUT>, grid, WARPS * 32, SMEM_BYTES, args);
    }

    static int parts(CUstream_st *stream, const lam_cuda_chip *chip, const attention_args &args,
        uint32_t n_seqs, uint32_t rows_max, uint32_t n_parts)
    {
        uint32_t n_part_blocks = div_up(n_parts, WARPS);
        uint32_t n_tiles = div_up(static_cast<uint64_t>(rows_max) * args.group, TILE_ROWS);
        dim3 grid(n_part_blocks * n_tiles, args.kv.n_kv_heads * (D / OUT), n_seqs);

        int error = launch(
            stream, chip, attend_parts<D, OUT>, grid, WARPS * 32, SMEM_BYTES, args, n_part_blocks);
        if (error != 0)
            return error;
        return launch(
            stream, chip, merge_parts<D>, dim3(rows_max, args.n_heads, n_seqs), D, 0, args);
    }
};

template <typename VISITOR> static int for_head_dim(uint32_t head_dim, const VISITOR &visit)
{
    switch (head_dim) {
    case 32:
        return visit(head_kernels<32>());
    case 64:
        return visit(head_kernels<64>());
    case 96:
        return visit(head_kernels<96>());
    case 128:
        return visit(head_kernels<128>());
    case 256:
        return visit(head_kernels<256>());
    default:
        return cudaErrorInvalidValue;
    }
}

bool lam_cuda_attention_fits(const lam_kv_layer *kv)
{
    bool sized = for_head_dim(kv->head_dim, [](auto) { return 0; }) == 0;

    return sized && kv->dtype == LAM_F16 && kv->page_tokens >= PAGE_TOKENS_MIN &&
           (reinterpret_cast<uintptr_t>(kv->k) | reinterpret_cast<uintptr_t>(kv->v)) % 16 == 0;
}

int lam_cuda_attention(CUstream_st *stream, const lam_cuda_chip *chip,
    const lam_attention_args *args, uint32_t split_tokens, float *splits)
{
    attention_args own = {};
    uint32_t n_rows = 0;
    uint32_t n_parts = 1;

    own.q = args->q;
    own.out = args->out;
    own.splits = splits;
    own.kv = args->kv;
    own.n_heads = args->n_heads;
    own.group = args->n_heads / args->kv.n_kv_heads;
    own.split_tokens = split_tokens;
    own.scale = args->scale * 1.4426950408889634f;
    for (uint32_t s = 0; s < args->n_seqs; s++) {
        uint32_t end = args->seqs[s].pos_begin + args->seqs[s].n_rows;
        n_rows += args->seqs[s].n_rows;
        n_parts = div_up(end, split_tokens) > n_parts ? div_up(end, split_tokens) : n_parts;
    }
    bool cut = n_rows <= LAM_DEVICE_SPLIT_ROWS && n_parts > 1;
    uint32_t part_row = 0;
    return for_seqs(
        args->seqs, args->n_seqs, [](const lam_seq_rows &) { return true; },
        [&](const seq_batch &batch, uint32_t n, uint32_t rows_max) -> int {
            own.batch = batch;
            for (uint32_t s = 0; s < n; s++) {
                own.part_row[s] = part_row;
                part_row += batch.seqs[s].n_rows;
            }
            return for_head_dim(args->kv.head_dim, [&](auto kernels) {
                return cut ? kernels.parts(stream, chip, own, n, rows_max, n_parts)
                           : kernels.whole(stream, chip, own, n, rows_max);
            });
        });
}

int lam_cuda_prepare_attention(void)
{
    static const uint32_t sizes[] = {32, 64, 96, 128, 256};
    int error = 0;

    for (uint32_t size : sizes)
        error = error != 0 ? error : for_head_dim(size, [](auto k) { return k.prepare(); });
    return error;
}
