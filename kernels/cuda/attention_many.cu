/*
 * attention_many: attention for calls of more than LAM_DEVICE_SPLIT_ROWS rows: prompts, and steps of
 * many sequences.
 *
 * Operations: 4 * d per row, head and position: prompts are bound by the tensor cores, steps by
 * reading keys and values once per key/value head. On an H100 a layer of 2048 rows takes 133 us
 * (258 TFLOP/s), behind 6000 positions 773 us (305); 64 sequences at position 1000 are read at 0.85
 * of the memory's speed.
 *
 * How. As in attention.cu, rows of a sequence times the query heads that share a key/value head form
 * one list; a warp takes 16 or 32 of it, over the whole context, 32 positions at a time with a
 * running maximum and sum; up to four warps share what is in shared memory. How many rows a warp
 * has changes no row's bits, nor do other rows of the call. Blocks that have most to do begin first.
 *
 * Precision: q and the softmax weights are rounded to F16 once (11 bits), as keys and values are
 * where they lie, and as what such calls multiply is (gemm64.cuh, pack.cu).
 */
#include "kernels/cuda/attention_step.cuh"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

enum : uint32_t { KEPT = 4 }; /* of the operands of q, those that stay in registers */

extern __shared__ uint4 smem[];

/* What a warp has: M * 16 entries of the list. */
template <int D, int OUT, int M> struct warp_state {
    tile_rows rows[M];
    uint32_t sees[M][2]; /* the last position that rows g and g + 8 see */
    uint4 q[M][KEPT];
    state<OUT> s[M];
};

static __device__ __forceinline__ uint32_t pair_bits(float x, float y)
{
    __half2 pair = __floats2half2_rn(x, y);

    return *reinterpret_cast<const uint32_t *>(&pair);
}

/* q of 16 entries as left operands: [D / 16][lane]. */
template <int D>
static __device__ __forceinline__ void round_q(
    const attention_args &args, const tile_rows &rows, uint4 *to, uint32_t lane)
{
    const float *q[2];

    for (uint32_t i = 0; i < 2; i++)
        q[i] =
            args.q + row_head(args, rows, lane / 4 + i * 8, rows.seq->row_begin) * D + lane % 4 * 2;
#pragma unroll 4
    for (uint32_t c = 0; c < D / 16; c++) {
        uint32_t pairs[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const float *pair = q[i % 2] + c * 16 + i / 2 * 8;
            pairs[i] = pair_bits(pair[0] * args.scale, pair[1] * args.scale);
        }
        to[c * 32 + lane] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
}

/* scores[m][j]: 16 entries by positions 8j.. of a step. q: those that are not kept. */
template <int D, int OUT, int M>
static __device__ __forceinline__ void score_step(const uint8_t *stage, const uint4 *q,
    const warp_state<D, OUT, M> &warp, uint32_t lane, float (&scores)[M][4][4])
{
    /* Of matrices 0 to 3: positions 0, 0, 8, 8 and values 0, 8, 0, 8. */
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(stage)) +
                  (lane / 16 * 8 + lane % 8) * head_shape<D, OUT>::K_PITCH + lane / 8 % 2 * 16;

#pragma unroll
    for (uint32_t c = 0; c < D / 16; c++) {
        uint32_t a[M][4];
#pragma unroll
        for (uint32_t m = 0; m < M; m++) {
            uint4 four = c < KEPT ? warp.q[m][c % KEPT] : q[(m * (D / 16) + c) * 32 + lane];
            a[m][0] = four.x;
            a[m][1] = four.y;
            a[m][2] = four.z;
            a[m][3] = four.w;
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t b[4];
            load_matrices(b, at + half * 16 * head_shape<D, OUT>::K_PITCH + c * 32);
#pragma unroll
            for (uint32_t m = 0; m < M; m++) {
                mma_f16(scores[m][half * 2], a[m], b[0], b[1]);
                mma_f16(scores[m][half * 2 + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* Scores of 16 entries become weights under the running maximum; the sums so far are brought under
 * it. masked: some entry does not see all positions of the step. */
template <int OUT>
static __device__ __forceinline__ void weigh_step(state<OUT> &s, const uint32_t (&sees)[2],
    uint32_t begin, bool masked, uint32_t lane, float (&scores)[4][4])
{
    float scale[2];

    if (masked) {
#pragma unroll
        for (uint32_t i = 0; i < 16; i++) {
            uint32_t position = begin + i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (position > sees[i / 2 % 2])
                scores[i / 4][i % 4] = -INFINITY;
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        float max = s.max[i];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            max = fmaxf(max, fmaxf(scores[j][i * 2], scores[j][i * 2 + 1])); /* no NaN gets in */
        max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFu, max, 1));
        max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFu, max, 2));
        scale[i] = rescale(s.max[i], max);
        s.max[i] = max;
        s.sum[i] *= scale[i];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
#pragma unroll
            for (uint32_t e = i * 2; e < i * 2 + 2; e++) { /* the first position is always seen */
                scores[j][e] = power_of_two(scores[j][e] - max);
                s.sum[i] += scores[j][e];
            }
        }
    }
    if (__all_sync(0xFFFFFFFFu, scale[0] == 1.0f && scale[1] == 1.0f))
        return;
#pragma unroll
    for (uint32_t i = 0; i < OUT / 8; i++) {
#pragma unroll
        for (uint32_t e = 0; e < 4; e++)
            s.value[i][e] *= scale[e / 2];
    }
}

/* Adds weights times values of a step. */
template <int D, int OUT, int M>
static __device__ __forceinline__ void add_step_values(const uint8_t *stage, uint32_t lane,
    const float (&weights)[M][4][4], warp_state<D, OUT, M> &warp)
{
    /* Of matrices 0 to 3: positions 0, 8, 0, 8 and values 0, 0, 8, 8. */
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(stage)) +
                  head_shape<D, OUT>::V_AT + lane % 16 * head_shape<D, OUT>::V_PITCH +
                  lane / 16 * 16;

#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t a[M][4];
#pragma unroll
        for (uint32_t i = 0; i < M * 4; i++) {
            const float *pair = &weights[i / 4][half * 2 + i % 4 / 2][i % 2 * 2];
            a[i / 4][i % 4] = pair_bits(pair[0], pair[1]);
        }
#pragma unroll
        for (uint32_t c = 0; c < OUT / 16; c++) {
            uint32_t b[4];
            load_matrices_turned(b, at + half * 16 * head_shape<D, OUT>::V_PITCH + c * 32);
#pragma unroll
            for (uint32_t m = 0; m < M; m++) {
                mma_f16(warp.s[m].value[c * 2], a[m], b[0], b[1]);
                mma_f16(warp.s[m].value[c * 2 + 1], a[m], b[2], b[3]);
            }
        }
    }
}

template <int D, int OUT, int M>
static __device__ __forceinline__ void store_rows(
    const attention_args &args, warp_state<D, OUT, M> &warp, uint32_t column, uint32_t lane)
{
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
        const tile_rows &rows = warp.rows[m];
        end_part(warp.s[m]);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            if (rows.first + lane / 4 + i * 8 >= rows.n)
                continue;
            size_t at = row_head(args, rows, lane / 4 + i * 8, rows.seq->row_begin) * D + column;
            float inverse = 1.0f / warp.s[m].sum[i];
#pragma unroll
            for (uint32_t tile = 0; tile < OUT / 8; tile++) {
                size_t to = at + tile * 8 + lane % 4 * 2;
                float2 two = make_float2(warp.s[m].value[tile][i * 2] * inverse,
                    warp.s[m].value[tile][i * 2 + 1] * inverse);
                if (args.rounded == NULL)
                    *reinterpret_cast<float2 *>(args.out + to) = two;
                else
                    *reinterpret_cast<uint32_t *>(args.rounded + to) =
                        pair_bits(two.x * LAM_CUDA_ROWS_SCALE, two.y * LAM_CUDA_ROWS_SCALE);
            }
        }
    }
}

/* Grid: (key/value heads * (D / OUT), entries / (WARPS * M * 16), sequences); the last entries,
 * which see most, come first. */
template <int D, int OUT, int WARPS, int M, bool Q8>
static __global__ void __launch_bounds__(WARPS * 32, WARPS == 1 ? 8 : 2)
    attend_many(const attention_args args)
{
    using shape = head_shape<D, OUT>;
    const uint32_t q_bytes = M * (D / 16) * 32 * 16; /* of a warp */
    uint32_t warp_index = threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    uint32_t column = blockIdx.x % (D / OUT) * OUT;
    uint4 *q = smem + warp_index * (q_bytes / 16);
    uint8_t *ring = reinterpret_cast<uint8_t *>(smem) + WARPS * q_bytes;
    warp_state<D, OUT, M> warp;
    tile_rows block;

    let_successors_begin();
    wait_for_predecessors();
    block.seq = &args.batch.seqs[blockIdx.z];
    block.kv_head = blockIdx.x / (D / OUT);
    block.first = (gridDim.y - 1 - blockIdx.y) * (WARPS * M * TILE_ROWS);
    block.n = block.seq->n_rows * args.group;
    if (block.first >= block.n)
        return;
    uint32_t block_last = block.seq->pos_begin + row_in_seq(args, block, WARPS * M * TILE_ROWS - 1);
    auto begin_next = [&](uint32_t step) {
        if (step * STEP <= block_last)
            begin_step<D, OUT, WARPS, Q8>(args, ring + step % shape::STAGES * shape::STAGE_BYTES,
                step_offset<D, WARPS, Q8>(args, block, step * STEP, block_last, warp_index, lane),
                column, warp_index, lane);
        copy_async_commit();
    };
    for (uint32_t step = 0; step < shape::STAGES - 1; step++)
        begin_next(step);
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
        warp.rows[m] = block;
        warp.rows[m].first += (warp_index * M + m) * TILE_ROWS;
        round_q<D>(args, warp.rows[m], q + m * (D / 16) * 32, lane);
        for (uint32_t i = 0; i < 2; i++)
            warp.sees[m][i] =
                block.seq->pos_begin + row_in_seq(args, warp.rows[m], lane / 4 + i * 8);
#pragma unroll
        for (uint32_t c = 0; c < KEPT && c < D / 16; c++)
            warp.q[m][c] = q[(m * (D / 16) + c) * 32 + lane]; /* of the lane's own making */
        clear(warp.s[m]);
    }
    bool inside = warp.rows[0].first < block.n;
    uint32_t first_sees = block.seq->pos_begin + row_in_seq(args, warp.rows[0], 0);
    uint32_t last_sees = last_position(args, warp.rows[M - 1]);
    for (uint32_t step = 0; step * STEP <= block_last; step++) {
        const uint8_t *stage = ring + step % shape::STAGES * shape::STAGE_BYTES;
        float scores[M][4][4] = {};
        copy_async_wait<shape::STAGES - 2>();
        __syncthreads(); /* the step is there for all, and its predecessor is read by all */
        begin_next(step + shape::STAGES - 1);
        if (!inside || step * STEP > last_sees)
            continue;
        score_step<D, OUT, M>(stage, q, warp, lane, scores);
#pragma unroll
        for (uint32_t m = 0; m < M; m++)
            weigh_step<OUT>(warp.s[m], warp.sees[m], step * STEP,
                step * STEP + STEP - 1 > first_sees, lane, scores[m]);
        add_step_values<D, OUT, M>(stage, lane, scores, warp);
    }
    if (inside)
        store_rows<D, OUT, M>(args, warp, column, lane);
}

template <int D, bool Q8> struct many_kernels {
    static const int OUT = D < OUT_MAX ? D : OUT_MAX;
    using shape = head_shape<D, OUT>;
    enum : uint32_t { WARPS = shape::WARPS_MAX, M = 2 };

    static constexpr uint32_t smem_bytes(uint32_t n_warps, uint32_t m)
    {
        return n_warps * m * (D / 16 * 32 * 16) + shape::STAGES * shape::STAGE_BYTES;
    }

    static int prepare(void)
    {
        static_assert(smem_bytes(WARPS, M) <= 99 << 10, "every chip has this much");
        int error = load_kernel_with(attend_many<D, OUT, 1, 1, Q8>, smem_bytes(1, 1));

        return error != 0
                   ? error
                   : load_kernel_with(attend_many<D, OUT, WARPS, M, Q8>, smem_bytes(WARPS, M));
    }

    static int run(CUstream_st *stream, const lam_cuda_chip *chip, const attention_args &args,
        uint32_t n_seqs, uint32_t rows_max)
    {
        uint64_t n_entries = static_cast<uint64_t>(rows_max) * args.group;
        dim3 grid(args.kv.n_kv_heads * (D / OUT), 1, n_seqs);

        if (n_entries <= TILE_ROWS)
            return launch(
                stream, chip, attend_many<D, OUT, 1, 1, Q8>, grid, 32, smem_bytes(1, 1), args);
        grid.y = div_up(n_entries, WARPS * M * TILE_ROWS);
        return launch(stream, chip, attend_many<D, OUT, WARPS, M, Q8>, grid, WARPS * 32,
            smem_bytes(WARPS, M), args);
    }
};

int attention_many(CUstream_st *stream, const lam_cuda_chip *chip, const attention_args &args,
    uint32_t n_seqs, uint32_t rows_max)
{
    return for_cache<many_kernels>(
        args.kv, [&](auto kernels) { return kernels.run(stream, chip, args, n_seqs, rows_max); });
}

int prepare_attention_many(void)
{
    return for_every_cache<many_kernels>([](auto kernels) { return kernels.prepare(); });
}
