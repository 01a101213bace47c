/*
 * attention: softmax(q K^T * scale) V over paged F16 or Q8_0 keys and values, on tensor cores, for
 * calls of up to LAM_DEVICE_SPLIT_ROWS rows; attention_many.cu has the others.
 *
 * Bytes: the keys and values that a row sees, once per key/value head: bound by latency up to some
 * thousand positions, by memory beyond. On an H100, 32 heads of 128 values, 8 of keys: one row at
 * position 100 takes 4.7 us, at 1000 9.4, at 8000 22 (32 MB of cache: 0.5 of the memory's speed), 16
 * rows at 1000 49 us (65 MB: 0.4).
 *
 * How. The rows of a sequence times the query heads that share a key/value head form one list; a
 * block takes 16 of it. The context is cut into parts of split_tokens positions, counted from 0; a
 * part is walked over 32 positions at a time with a running maximum and sum, by a few warps of
 * their own. A block has up to PARTS_MAX neighbouring parts, which it merges in order in shared
 * memory; the last block to end merges the blocks in order. A row's bits do not depend on other
 * rows.
 *
 * Keys and values before pos_begin are on their way before the predecessors have ended: they are of
 * earlier passes (kernels/ops.h).
 *
 * Precision: q and the softmax weights are split in two f16 (22 bits), keys and values are f16 as
 * they lie: results are as good as in f32.
 */
#include "kernels/cuda/attention_step.cuh"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

enum { PAGE_TOKENS_MIN = 16, PARTS_AHEAD = 4, BLOCKS_AHEAD = 8 };
enum : uint32_t { SHORT_CTX = 4096 };

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

/* The sums of a block, of list entry i of the tile. */
template <int D>
static __device__ __forceinline__ float *block_sums(
    const attention_args &args, const tile_rows &rows, uint32_t i, uint32_t block)
{
    size_t row = row_head(args, rows, i, args.part_row[blockIdx.z]);

    return args.splits + (row * LAM_DEVICE_SPLITS_MAX + block) * (D + 2);
}

/* The sums of a row, of a part or more: a lane has every 32nd of the values. */
template <uint32_t VALUES> struct row_sums {
    float max;
    float sum;
    float value[VALUES];
};

/* Adds up n of them in order. Those of the first lie at `values` (of the lane) and `max`, with the
 * sum behind it; each further one `stride` floats behind. AHEAD are loaded at once. */
template <uint32_t VALUES, uint32_t AHEAD>
static __device__ __forceinline__ row_sums<VALUES> merge_in_order(
    const float *values, const float *max, size_t stride, uint32_t n)
{
    row_sums<VALUES> total = {-INFINITY, 0, {}};

    for (uint32_t begin = 0; begin < n; begin += AHEAD) {
        row_sums<VALUES> next[AHEAD];
#pragma unroll
        for (uint32_t p = 0; p < AHEAD; p++) {
            size_t at = (begin + p < n ? begin + p : begin) * stride;
            next[p].max = max[at];
            next[p].sum = max[at + 1];
#pragma unroll
            for (uint32_t v = 0; v < VALUES; v++)
                next[p].value[v] = values[at + v * 32];
        }
#pragma unroll
        for (uint32_t p = 0; p < AHEAD; p++) {
            if (begin + p >= n)
                break;
            float new_max = fmaxf(total.max, next[p].max);
            float scale = rescale(total.max, new_max);
            float next_scale = rescale(next[p].max, new_max);
            total.max = new_max;
            total.sum = merged(total.sum, scale, next[p].sum, next_scale);
#pragma unroll
            for (uint32_t v = 0; v < VALUES; v++)
                total.value[v] = merged(total.value[v], scale, next[p].value[v], next_scale);
        }
    }
    return total;
}

/* The row's result, columns `column` on. */
template <int D, uint32_t VALUES>
static __device__ __forceinline__ void store_row(const attention_args &args, const tile_rows &rows,
    uint32_t i, uint32_t column, const row_sums<VALUES> &sums)
{
    float *out = args.out + row_head(args, rows, i, rows.seq->row_begin) * D + column;
    float inverse = 1.0f / sums.sum;

#pragma unroll
    for (uint32_t v = 0; v < VALUES; v++)
        out[v * 32 + threadIdx.x % 32] = sums.value[v] * inverse;
}

/* A warp's WIDTH columns from `column` on, of its part, into the part's room: a row of OUT values,
 * maximum and sum. Maximum and sum are the same in all warps of the part. */
template <int OUT, int WIDTH>
static __device__ __forceinline__ void store_part(
    float *room, uint32_t column, uint32_t lane, const state<WIDTH> &s)
{
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        float *to = room + (lane / 4 + i * 8) * (OUT + 2);
#pragma unroll
        for (uint32_t tile = 0; tile < WIDTH / 8; tile++) {
#pragma unroll
            for (uint32_t e = 0; e < 2; e++)
                to[column + tile * 8 + lane % 4 * 2 + e] = s.value[tile][i * 2 + e];
        }
        if (column == 0 && lane % 4 == 0) {
            to[OUT] = s.max[i];
            to[OUT + 1] = s.sum[i];
        }
    }
}

/* How many pieces of `tokens` positions from `begin` on list entry i sees anything of. */
static __device__ __forceinline__ uint32_t n_seen(
    const attention_args &args, const tile_rows &rows, uint32_t i, uint32_t begin, uint32_t tokens)
{
    uint32_t position = rows.seq->pos_begin + row_in_seq(args, rows, i);

    return position < begin ? 0 : (position - begin) / tokens + 1;
}

/* Merges the block's parts, which lie `room_floats` apart, for every row of the tile: into the
 * result, or, if the tile has more blocks, into the block's sums. Warps share the rows. */
template <int D, int OUT>
static __device__ __forceinline__ void merge_parts(const attention_args &args,
    const tile_rows &rows, const float *room, uint32_t room_floats, uint32_t n_parts,
    uint32_t block, bool is_only, uint32_t column)
{
    const uint32_t values = OUT / 32;
    uint32_t lane = threadIdx.x % 32;
    uint32_t n = min(rows.n - rows.first, static_cast<uint32_t>(TILE_ROWS));
    uint32_t begin = block * n_parts * args.split_tokens;

    for (uint32_t i = threadIdx.x / 32; i < n; i += blockDim.x / 32) {
        const float *first = room + i * (OUT + 2);
        row_sums<values> sums = merge_in_order<values, PARTS_AHEAD>(first + lane, first + OUT,
            room_floats, min(n_parts, n_seen(args, rows, i, begin, args.split_tokens)));
        if (is_only) {
            store_row<D>(args, rows, i, column, sums);
            continue;
        }
        float *to = block_sums<D>(args, rows, i, block);
#pragma unroll
        for (uint32_t v = 0; v < values; v++)
            to[column + v * 32 + lane] = sums.value[v];
        if (lane == 0) {
            to[D] = sums.max;
            to[D + 1] = sums.sum;
        }
    }
}

/* Whether this block is the last of the n_blocks of its tile and columns; what the others stored is
 * then there. Called by the whole block. */
static __device__ __forceinline__ bool is_last_block(
    const attention_args &args, const tile_rows &rows, uint32_t n_blocks)
{
    __shared__ bool is_last;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        size_t at = row_head(args, rows, 0, args.part_row[blockIdx.z]) * 2;
        uint32_t *arrived = args.arrived + at + blockIdx.y % 2;
        is_last = atomicAdd(arrived, 1) + 1 == n_blocks;
        if (is_last)
            *arrived = 0;
    }
    __syncthreads();
    __threadfence();
    return is_last;
}

/* Merges the blocks of a tile, of span positions each, for every row of it. */
template <int D, int OUT>
static __device__ __forceinline__ void merge_blocks(
    const attention_args &args, const tile_rows &rows, uint32_t span, uint32_t column)
{
    const uint32_t values = OUT / 32;
    uint32_t n = min(rows.n - rows.first, static_cast<uint32_t>(TILE_ROWS));

    for (uint32_t i = threadIdx.x / 32; i < n; i += blockDim.x / 32) {
        const float *first = block_sums<D>(args, rows, i, 0);
        store_row<D>(args, rows, i, column,
            merge_in_order<values, BLOCKS_AHEAD>(first + column + threadIdx.x % 32, first + D,
                D + 2, n_seen(args, rows, i, 0, span)));
    }
}

/* Every warp of a part takes all its scores and has its own columns of the values. Grid: blocks *
 * tiles, key/value heads * column blocks, sequences. */
template <int D, int OUT, bool Q8>
static __global__ void __launch_bounds__(head_shape<D, OUT>::PART_THREADS_MAX)
    attend_parts(const attention_args args, uint32_t n_blocks)
{
    using shape = head_shape<D, OUT>;
    const int width = OUT / shape::PART_WARPS;
    uint32_t n_parts = blockDim.x / (shape::PART_WARPS * 32);
    uint32_t part = threadIdx.x / 32 / shape::PART_WARPS;
    uint32_t warp = threadIdx.x / 32 % shape::PART_WARPS;
    uint32_t lane = threadIdx.x % 32;
    uint32_t column = blockIdx.y % (D / OUT) * OUT;
    uint32_t block = blockIdx.x % n_blocks;
    uint32_t span = n_parts * args.split_tokens;
    uint32_t begin = block * span + part * args.split_tokens;
    uint8_t *rooms = reinterpret_cast<uint8_t *>(smem) + shape::Q_BYTES;
    uint8_t *stage = rooms + part * shape::STAGE_BYTES;
    uint32_t sees[2];
    tile_rows rows;
    state<width> s;

    let_successors_begin();
    bool any = find_rows<D, OUT>(args, blockIdx.x / n_blocks * TILE_ROWS, rows);
    uint32_t last = last_position(args, rows);
    if (!any || block * span > last) {
        wait_for_predecessors();
        return;
    }
    auto steps_from = [&](uint32_t first) -> uint32_t {
        return first > last ? 0 : (min(args.split_tokens, last + 1 - first) + STEP - 1) / STEP;
    };
    uint32_t n_steps = steps_from(begin);
    uint32_t n_most = steps_from(block * span); /* of all parts */
    auto offset_of = [&](uint32_t step) {
        return step_offset<D, shape::PART_WARPS, Q8>(
            args, rows, begin + step * STEP, last, warp, lane);
    };
    auto begin_step_at = [&](size_t offset) {
        begin_step<D, OUT, shape::PART_WARPS, Q8>(args, stage, offset, column, warp, lane);
    };
    /* The first step's keys and values are older than this pass. Q8_0 is read in words, which reach
     * beyond its rows. */
    bool is_old = !Q8 && begin + STEP <= rows.seq->pos_begin;
    size_t first_offset = n_steps > 0 ? offset_of(0) : 0;
    if (n_steps > 0 && is_old)
        begin_step_at(first_offset);
    for (uint32_t i = 0; i < 2; i++)
        sees[i] = rows.seq->pos_begin + row_in_seq(args, rows, lane / 4 + i * 8);
    clear(s);
    wait_for_predecessors();
    if (n_steps > 0 && !is_old)
        begin_step_at(first_offset);
    copy_async_commit();
    load_q<D>(args, rows, smem, threadIdx.x / 32, blockDim.x / 32, lane);
    for (uint32_t step = 0; step < n_most; step++) {
        copy_async_wait<0>();
        __syncthreads();
        if (step < n_steps)
            attend_step<D, OUT, width>(
                stage, smem, sees, begin + step * STEP, warp * width, lane, s);
        __syncthreads(); /* the stage is free */
        if (step + 1 < n_steps)
            begin_step_at(offset_of(step + 1));
        copy_async_commit();
    }
    end_part(s);
    store_part<OUT, width>(reinterpret_cast<float *>(stage), warp * width, lane, s);
    __syncthreads();
    uint32_t n_here = last / span + 1;
    merge_parts<D, OUT>(args, rows, reinterpret_cast<const float *>(rooms), shape::STAGE_BYTES / 4,
        n_parts, block, n_here == 1, column);
    if (n_here > 1 && is_last_block(args, rows, n_here))
        merge_blocks<D, OUT>(args, rows, span, column);
}

template <int D, bool Q8> struct head_kernels {
    static const int OUT = D < OUT_MAX ? D : OUT_MAX;
    using shape = head_shape<D, OUT>;

    static constexpr uint32_t smem_bytes(uint32_t n_parts)
    {
        return shape::Q_BYTES + n_parts * shape::STAGE_BYTES;
    }

    /* Parts of a block, of n_parts of the longest context. More than a tile has change nothing in
     * how its rows are merged. */
    static uint32_t parts_of_block(const lam_cuda_chip *chip, uint32_t n_parts)
    {
        uint32_t n = PARTS_MAX;

        while (n > 1 && smem_bytes(n) > chip->block_smem_bytes)
            n /= 2;
        return n_parts < n ? n_parts : n;
    }

    static int prepare(const lam_cuda_chip *chip)
    {
        return load_kernel_with(
            attend_parts<D, OUT, Q8>, smem_bytes(parts_of_block(chip, PARTS_MAX)));
    }

    static int parts(CUstream_st *stream, const lam_cuda_chip *chip, const attention_args &args,
        uint32_t n_seqs, uint32_t rows_max, uint32_t n_parts)
    {
        uint32_t n_tiles = div_up(static_cast<uint64_t>(rows_max) * args.group, TILE_ROWS);
        uint32_t of_block = parts_of_block(chip, n_parts);
        uint32_t n_blocks = div_up(n_parts, of_block);
        dim3 grid(n_blocks * n_tiles, args.kv.n_kv_heads * (D / OUT), n_seqs);

        return launch(stream, chip, attend_parts<D, OUT, Q8>, grid,
            of_block * shape::PART_WARPS * 32, smem_bytes(of_block), args, n_blocks);
    }
};

bool lam_cuda_attention_fits(const lam_kv_layer *kv)
{
    bool sized = for_cache<head_kernels>(*kv, [](auto) { return 0; }) == 0;
    uint32_t align = kv->dtype == LAM_Q8_0 ? 4 : 16;

    return sized && kv->dtype != LAM_F32 && kv->page_tokens >= PAGE_TOKENS_MIN &&
           (reinterpret_cast<uintptr_t>(kv->k) | reinterpret_cast<uintptr_t>(kv->v)) % align == 0;
}

/* Parts of one step answer soonest; parts of two are better once a context's blocks of all heads are
 * more than the multiprocessors: from about 4000 positions on, with 8 key/value heads. */
uint32_t lam_cuda_attention_split(const lam_cuda_chip *chip, uint32_t head_dim, uint32_t max_ctx)
{
    uint32_t of_block = 1;

    (void)for_head_dim<head_kernels, false>(head_dim, [&](auto kernels) {
        of_block = kernels.parts_of_block(chip, PARTS_MAX);
        return 0;
    });
    uint32_t tokens = max_ctx <= SHORT_CTX ? STEP : 2 * STEP;
    uint32_t least = div_up(max_ctx, LAM_DEVICE_SPLITS_MAX * of_block);
    return least > tokens ? div_up(least, STEP) * STEP : tokens;
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

int lam_cuda_prepare_attention(const lam_cuda_chip *chip)
{
    int error = for_every_cache<head_kernels>([&](auto kernels) { return kernels.prepare(chip); });

    return error != 0 ? error : prepare_attention_many();
}
