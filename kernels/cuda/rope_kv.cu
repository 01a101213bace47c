/*
 * rope_kv: the rotation of q and k and the storing of k and v, three operations in one launch: a
 * token has few bytes here, and each launch would cost it about 3 us. The bits are those of the
 * three operations. F32 and F16 caches, heads that are rotated whole.
 */
#include "kernels/cuda/rope_kv.cuh"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/seqs.cuh"

enum : uint32_t { BLOCK = 128 };

/* A thread: a pair of q, of k, or of v. Grid: (rows, sequences, pieces of q, of k, of v). */
template <lam_dtype DTYPE>
static __global__ void __launch_bounds__(BLOCK) rope_kv_rows(const seq_batch batch,
    const lam_cuda_rope_kv_args args, uint32_t n_q_pieces, uint32_t n_kv_pieces)
{
    const lam_seq_rows &seq = batch.seqs[blockIdx.y];
    const lam_kv_layer &kv = args.write.kv;
    uint32_t d = kv.head_dim;
    bool is_q = blockIdx.z < n_q_pieces;
    bool is_v = blockIdx.z >= n_q_pieces + n_kv_pieces;
    uint32_t piece = is_q   ? blockIdx.z
                     : is_v ? blockIdx.z - n_q_pieces - n_kv_pieces
                            : blockIdx.z - n_q_pieces;
    uint32_t at = piece * BLOCK + threadIdx.x;
    uint32_t n_heads = is_q ? args.q.n_heads : kv.n_kv_heads;
    uint32_t head = at / (d / 2);
    uint32_t i = at % (d / 2);

    let_successors_begin();
    wait_for_predecessors();
    if (blockIdx.x >= seq.n_rows || head >= n_heads)
        return;
    size_t row = seq.row_begin + blockIdx.x;
    uint2 to = pair_places(i, d, args.q.pairing == LAM_ROPE_ADJACENT);
    float2 pair;
    if (is_v) {
        const float *v = args.write.v + (row * n_heads + head) * d;
        pair = make_float2(v[to.x], v[to.y]);
    } else {
        float *x = (is_q ? args.q.x : args.k.x) + (row * n_heads + head) * d;
        pair = turned(x[to.x], x[to.y], args.q.table + row * d + 2 * i);
        x[to.x] = pair.x;
        x[to.y] = pair.y;
    }
    if (is_q)
        return;
    uint8_t *cached =
        cache_row<DTYPE>(kv, seq, is_v ? kv.v : kv.k, seq.pos_begin + blockIdx.x, head);
    store_value<DTYPE>(cached, to.x, pair.x);
    store_value<DTYPE>(cached, to.y, pair.y);
}

bool lam_cuda_rope_kv_fits(const lam_cuda_rope_kv_args *args)
{
    const lam_kv_layer &kv = args->write.kv;
    uint32_t n_rows = 0;

    if (kv.dtype == LAM_Q8_0 || args->q.table != args->k.table ||
        args->q.pairing != args->k.pairing || args->q.rope_dim != kv.head_dim ||
        args->k.rope_dim != kv.head_dim || args->q.head_dim != kv.head_dim ||
        args->k.head_dim != kv.head_dim || args->k.n_heads != kv.n_kv_heads ||
        args->k.x != args->write.k || args->q.x == args->k.x)
        return false;
    for (uint32_t s = 0; s < args->write.n_seqs; s++) { /* every row, once */
        if (args->write.seqs[s].row_begin != n_rows)
            return false;
        n_rows += args->write.seqs[s].n_rows;
    }
    return n_rows == args->q.n_rows && n_rows == args->k.n_rows;
}

int lam_cuda_rope_kv(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_cuda_rope_kv_args *args)
{
    const lam_kv_layer &kv = args->write.kv;
    uint32_t n_q_pieces = div_up(args->q.n_heads * (kv.head_dim / 2), BLOCK);
    uint32_t n_kv_pieces = div_up(kv.n_kv_heads * (kv.head_dim / 2), BLOCK);
    auto *kernel = kv.dtype == LAM_F16 ? rope_kv_rows<LAM_F16> : rope_kv_rows<LAM_F32>;

    return for_seqs(
        args->write.seqs, args->write.n_seqs, [](const lam_seq_rows &) { return true; },
        [&](const seq_batch &batch, uint32_t n, uint32_t rows_max) -> int {
            dim3 grid(rows_max, n, n_q_pieces + 2 * n_kv_pieces);
            return launch(
                stream, chip, kernel, grid, BLOCK, 0, batch, *args, n_q_pieces, n_kv_pieces);
        });
}

int lam_cuda_prepare_rope_kv(void)
{
    int error = load_kernel(rope_kv_rows<LAM_F32>);

    return error != 0 ? error : load_kernel(rope_kv_rows<LAM_F16>);
}
