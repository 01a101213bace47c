/*
 * attention: softmax(q K^T * scale) V over paged F16 or Q8_0 keys and values, on tensor cores, for
 * calls of up to LAM_DEVICE_SPLIT_ROWS rows; attention_many.cu has the others.
 *
 * Bytes: the keys and values that a row sees, once per key/value head: bound by memory and
 * by latency. On an H100 one row at position 1000 took 11 us when a second
 * kernel merged the parts; without it a layer takes 2 to 4 us less.
 *
 * How. The rows of a sequence times the query heads that share a key/value head form one list; a
 * block takes 16 of it. The context is cut into parts of split_tokens positions, counted from 0; a
 * part is walked over 32 positions at a time with a running maximum and sum, by a block of its own,
 * and the last block to end merges the parts in order. A row's bits do not depend on other rows.
 *
 * Precision: q and the softmax weights are split in two f16 (22 bits), keys and values are f16 as
 * they lie: results are as good as in f32.
 */
#include "kernels/cuda/attention_step.cuh"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

enum { PAGE_TOKENS_MIN = 16, MERGE_AHEAD = 8 };

extern __shared__ uint4 smem[];

/* Fills rows, for the warp's tile, from the grid; false: there is no such tile. */
template <int D, int OUT>
static __device__ __forceinline__ bool find_rows(
    const attention_args &args, uint32_t first, tile_rows &rows)
{
    rows.seq = &args.batch.seqs[blockIdx.z];
    rows.kv_head = blockIdx.y / (D / OUT);
    rows.first = first;
    rows.n = rows.seq->n_rows * args.group;
    return first < rows.n;
}

/* The sums of a part, of list entry i of the tile. */
template <int D>
static __device__ __forceinline__ float *part_sums(
    const attention_args &args, const tile_rows &rows, uint32_t i, uint32_t part)
{
    size_t row = row_head(args, rows, i, args.part_row[blockIdx.z]);

    return args.splits + (row * LAM_DEVICE_SPLITS_MAX + part) * (D + 2);
}

/* A warp's WIDTH columns from `column` on; maximum and sum are the same in all warps. */
template <int D, int WIDTH>
static __device__ __forceinline__ void store_part(const attention_args &args, const tile_rows &rows,
    uint32_t part, uint32_t column, uint32_t lane, const state<WIDTH> &s)
{
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        if (rows.first + lane / 4 + i * 8 >= rows.n)
            continue;
        float *to = part_sums<D>(args, rows, lane / 4 + i * 8, part);
#pragma unroll
        for (uint32_t tile = 0; tile < WIDTH / 8; tile++) {
#pragma unroll
            for (uint32_t e = 0; e < 2; e++)
                to[column + tile * 8 + lane % 4 * 2 + e] = s.value[tile][i * 2 + e];
        }
        if (lane % 4 == 0) {
            to[D] = s.max[i];
            to[D + 1] = s.sum[i];
        }
    }
}

/* Whether this block is the last of the n_parts of its tile and columns; what the others stored is
 * then there. Called by the whole block. */
static __device__ __forceinline__ bool is_last_part(
    const attention_args &args, const tile_rows &rows, uint32_t n_parts)
{
    __shared__ bool is_last;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        size_t at = row_head(args, rows, 0, args.part_row[blockIdx.z]) * 2;
        uint32_t *arrived = args.arrived + at + blockIdx.y % 2;
        is_last = atomicAdd(arrived, 1) + 1 == n_parts;
        if (is_last)
            *arrived = 0;
    }
    __syncthreads();
    __threadfence();
    return is_last;
}

/* Merges the parts of every row of the tile, in order. Warps share the rows, a lane has VALUES
 * columns. */
template <int D, int OUT, uint32_t WARPS>
static __device__ __forceinline__ void merge_parts(
    const attention_args &args, const tile_rows &rows, uint32_t column)
{
    const uint32_t values = OUT / 32;
    uint32_t lane = threadIdx.x % 32;
    uint32_t n = min(rows.n - rows.first, static_cast<uint32_t>(TILE_ROWS));

    for (uint32_t i = threadIdx.x / 32; i < n; i += WARPS) {
        uint32_t n_parts =
            (rows.seq->pos_begin + row_in_seq(args, rows, i)) / args.split_tokens + 1;
        float max = -INFINITY;
        float sum = 0;
        float value[values] = {};
        for (uint32_t begin = 0; begin < n_parts; begin += MERGE_AHEAD) {
            float maxes[MERGE_AHEAD], sums[MERGE_AHEAD], parts[MERGE_AHEAD][values];
#pragma unroll
            for (uint32_t p = 0; p < MERGE_AHEAD; p++) {
                const float *part =
                    part_sums<D>(args, rows, i, begin + p < n_parts ? begin + p : begin);
                maxes[p] = part[D];
                sums[p] = part[D + 1];
#pragma unroll
                for (uint32_t v = 0; v < values; v++)
                    parts[p][v] = part[column + v * 32 + lane];
            }
#pragma unroll
            for (uint32_t p = 0; p < MERGE_AHEAD; p++) {
                if (begin + p >= n_parts)
                    break;
                float new_max = fmaxf(max, maxes[p]);
                float scale = rescale(max, new_max);
                float part_scale = rescale(maxes[p], new_max);
                max = new_max;
                sum = merged(sum, scale, sums[p], part_scale);
#pragma unroll
                for (uint32_t v = 0; v < values; v++)
                    value[v] = merged(value[v], scale, parts[p][v], part_scale);
            }
        }
        float *out = args.out + row_head(args, rows, i, rows.seq->row_begin) * D + column;
        float inverse = 1.0f / sum;
#pragma unroll
        for (uint32_t v = 0; v < values; v++)
            out[v * 32 + lane] = value[v] * inverse;
    }
}

/* A block per part, its sums into args.splits: every warp takes all scores and has its own columns
 * of the values. The last block of a tile merges its parts. Grid as above, with parts * tiles in
 * front. */
template <int D, int OUT, bool Q8>
static __global__ void __launch_bounds__(head_shape<D, OUT>::PART_WARPS * 32)
    attend_parts(const attention_args args, uint32_t n_parts)
{
    using shape = head_shape<D, OUT>;
    const int width = OUT / shape::PART_WARPS;
    uint32_t warp = threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    uint32_t column = blockIdx.y % (D / OUT) * OUT;
    uint32_t part = blockIdx.x % n_parts;
    uint32_t begin = part * args.split_tokens;
    uint8_t *ring = reinterpret_cast<uint8_t *>(smem) + shape::Q_BYTES;
    uint32_t sees[2];
    tile_rows rows;
    state<width> s;

    let_successors_begin();
    wait_for_predecessors();
    if (!find_rows<D, OUT>(args, blockIdx.x / n_parts * TILE_ROWS, rows))
        return;
    uint32_t last = last_position(args, rows);
    if (begin > last)
        return;
    uint32_t n_steps = (min(args.split_tokens, last + 1 - begin) + STEP - 1) / STEP;
    auto begin_next = [&](uint32_t step) {
        if (step < n_steps)
            begin_step<D, OUT, shape::PART_WARPS, Q8>(args, rows,
                ring + step % shape::STAGES * shape::STAGE_BYTES, begin + step * STEP, last, column,
                warp, lane);
        copy_async_commit();
    };
    for (uint32_t step = 0; step < shape::STAGES - 1; step++)
        begin_next(step);
    load_q<D, shape::PART_WARPS>(args, rows, smem, warp, lane);
    for (uint32_t i = 0; i < 2; i++)
        sees[i] = rows.seq->pos_begin + row_in_seq(args, rows, lane / 4 + i * 8);
    clear(s);
    for (uint32_t step = 0; step < n_steps; step++) {
        copy_async_wait<shape::STAGES - 2>();
        __syncthreads();
        begin_next(step + shape::STAGES - 1);
        attend_step<D, OUT, width>(ring + step % shape::STAGES * shape::STAGE_BYTES, smem, sees,
            begin + step * STEP, warp * width, lane, s);
    }
    end_part(s);
    store_part<D, width>(args, rows, part, column + warp * width, lane, s);
    if (is_last_part(args, rows, last / args.split_tokens + 1))
        merge_parts<D, OUT, shape::PART_WARPS>(args, rows, column);
}

template <int D, bool Q8> struct head_kernels {
    static const int OUT = D < OUT_MAX ? D : OUT_MAX;
    using shape = head_shape<D, OUT>;

    static constexpr uint32_t smem_bytes(void)
    {
        return shape::Q_BYTES + shape::STAGES * shape::STAGE_BYTES;
    }

    static int prepare(void)
    {
        return load_kernel_with(attend_parts<D, OUT, Q8>, smem_bytes());
    }

    static int parts(CUstream_st *stream, const lam_cuda_chip *chip, const attention_args &args,
        uint32_t n_seqs, uint32_t rows_max, uint32_t n_parts)
    {
        uint32_t n_tiles = div_up(static_cast<uint64_t>(rows_max) * args.group, TILE_ROWS);
        dim3 grid(n_parts * n_tiles, args.kv.n_kv_heads * (D / OUT), n_seqs);

        return launch(stream, chip, attend_parts<D, OUT, Q8>, grid, shape::PART_WARPS * 32,
            smem_bytes(), args, n_parts);
    }
};

bool lam_cuda_attention_fits(const lam_kv_layer *kv)
{
    bool sized = for_cache<head_kernels>(*kv, [](auto) { return 0; }) == 0;
    uint32_t align = kv->dtype == LAM_Q8_0 ? 4 : 16;

    return sized && kv->dtype != LAM_F32 && kv->page_tokens >= PAGE_TOKENS_MIN &&
           (reinterpret_cast<uintptr_t>(kv->k) | reinterpret_cast<uintptr_t>(kv->v)) % align == 0;
}

int lam_cuda_attention(CUstream_st *stream, const lam_cuda_chip *chip,
    const lam_attention_args *args, uint32_t split_tokens, float *splits, uint32_t *arrived,
    void *rounded)
{
    attention_args own = {};
    uint32_t n_rows = 0;
    uint32_t n_parts = 1;

    own.q = args->q;
    own.out = args->out;
    own.splits = splits;
    own.rounded = static_cast<__half *>(rounded);
    own.arrived = arrived;
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
    bool cut = n_rows <= LAM_DEVICE_SPLIT_ROWS;
    uint32_t part_row = 0;
    return for_seqs(
        args->seqs, args->n_seqs, [](const lam_seq_rows &) { return true; },
        [&](const seq_batch &batch, uint32_t n, uint32_t rows_max) -> int {
            own.batch = batch;
            for (uint32_t s = 0; s < n; s++) {
                own.part_row[s] = part_row;
                part_row += batch.seqs[s].n_rows;
            }
            if (!cut)
                return attention_many(stream, chip, own, n, rows_max);
            return for_cache<head_kernels>(args->kv, [&](auto kernels) {
                return kernels.parts(stream, chip, own, n, rows_max, n_parts);
            });
        });
}

int lam_cuda_prepare_attention(void)
{
    int error = for_every_cache<head_kernels>([](auto kernels) { return kernels.prepare(); });

    return error != 0 ? error : prepare_attention_many();
}
