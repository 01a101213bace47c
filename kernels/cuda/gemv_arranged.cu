/*
 * gemv_arranged: products of 1 to 16 rows by matrices in the order of arranged.cuh: gemv (gemv.cuh)
 * without its ring. A lane loads its part of a chunk, 16 rows by 256 columns, from device memory
 * into registers, all of it a whole chunk before it is used; the arithmetic, the dealing of chunks
 * to warps and what becomes of the sums are those of gemv, so the bits are the same as of the
 * matrix as it lies in the file.
 *
 * Bytes: the packed matrix, once: bound by memory. In flight: two chunks of each of 16 warps of a
 * multiprocessor (Q4_K: 74 KB at most; 3 TB/s times 700 ns want 16). Not measured yet.
 */
#include "kernels/cuda/arranged.cuh"

enum : uint32_t { BLOCKS_PER_SM = 2 }; /* 128 registers a thread */

/* A warp's place in its stream of chunks. */
struct chunk_reader {
    const uint8_t *from;
    uint32_t round;
    uint32_t step;
    bool inside; /* the tile is there */
};

/* Loads the reader's next chunk, if there is one. */
template <typename SOURCE>
static __device__ __forceinline__ void load_next(const gemv_args &args, chunk_reader &ahead,
    uint32_t slice, uint32_t tile_in_unit, uint32_t lane, SOURCE &to)
{
    if (ahead.step == slice) { /* a new tile */
        uint32_t unit = unit_of(args, ahead.round);
        uint32_t tile = unit * args.tiles_per_block + tile_in_unit;
        ahead.inside = unit < args.n_units && tile < args.mats[MATS_MAX - 1].tiles_end;
        ahead.from = find_tile(args, ahead.inside ? tile : 0).weight + slice * SOURCE::CHUNK_BYTES;
    }
    if (ahead.inside)
        to.load(ahead.from, lane);
    ahead.from += args.n_slices * SOURCE::CHUNK_BYTES;
    ahead.step += args.n_slices;
    if (ahead.step >= args.n_steps) {
        ahead.step = slice;
        ahead.round++;
    }
}

/* Grid: any number of blocks; they share the units in rounds. */
template <typename SOURCE, int NT, bool ONE>
static __global__ void __launch_bounds__(BLOCK, BLOCKS_PER_SM) gemv_chunks(const gemv_args args)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t slice = threadIdx.x / 32 % args.n_slices;
    uint32_t tile_in_unit = threadIdx.x / 32 / args.n_slices;
    chunk_reader ahead = {NULL, 0, slice, false};
    SOURCE even, odd;
    float sums[NT][2] = {};
    uint32_t round = 0;
    uint32_t step = slice;

    /* Multiplies a chunk, loads the one after next into its place; false behind the last. */
    auto use = [&](SOURCE &chunk) -> bool {
        uint32_t tile = unit_of(args, round) * args.tiles_per_block + tile_in_unit;

        if (tile < args.mats[MATS_MAX - 1].tiles_end) {
            if constexpr (ONE)
                math_int8::add_one(args, chunk, step, lane, sums[0]);
            else
                math_int8::add_rows<SOURCE, NT>(args, chunk, step, lane, sums);
        }
        load_next(args, ahead, slice, tile_in_unit, lane, chunk);
        step += args.n_slices;
        if (step < args.n_steps)
            return true;
        keep_sums<NT, ONE>(args, round, sums);
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
            sums[nt][0] = sums[nt][1] = 0;
        step = slice;
        round++;
        bool more = unit_of(args, round) < args.n_units;
        if (!more || (round & (args.parts_rounds - 1)) == 0)
            finish_rounds<ONE ? 1 : NT * 4>(args, (round - 1) & ~(args.parts_rounds - 1), round);
        return more;
    };

    let_successors_begin();
    load_next(args, ahead, slice, tile_in_unit, lane, even);
    load_next(args, ahead, slice, tile_in_unit, lane, odd);
    if (ONE)
        fetch_norm(args);
    wait_for_predecessors();
    if (ONE)
        split_here<math_int8>(args);
    while (use(even) && use(odd))
        ;
}

/* Lays out shared memory; returns its size. */
template <int NT, bool ONE> static uint32_t chunks_smem(gemv_args *args, uint32_t parts_rounds)
{
    args->parts_rounds = parts_rounds;
    args->facts_at = ONE ? args->n_groups * 8 * sizeof(math_int8::operand) : 0;
    args->parts_at = args->facts_at + (ONE ? (args->n_groups + 1) / 2 * 16 : 0);
    return args->parts_at + parts_rounds * N_WARPS * TILE * (ONE ? 1 : NT * 4) * 4;
}

template <typename SOURCE, int NT, bool ONE>
static int launch_chunks(CUstream_st *stream, const lam_cuda_chip *chip, gemv_args args)
{
    uint32_t parts_rounds = PARTS_MAX;
    uint32_t bytes = chunks_smem<NT, ONE>(&args, parts_rounds);
    int error = 0;

    while (parts_rounds > PARTS_MIN && (bytes + 1024) * BLOCKS_PER_SM > chip->sm_smem_bytes)
        bytes = chunks_smem<NT, ONE>(&args, parts_rounds /= 2);
    if (!ONE)
        error = launch(stream, chip, split_rows<math_int8>,
            dim3(div_up(args.n_groups * 4, BLOCK), NT * 4), BLOCK, 0, args);
    if (error != 0)
        return error;
    uint32_t n_shares = args.in_turn ? div_up(args.n_units, 2) : args.n_units;
    uint32_t n_most = chip->n_sms * BLOCKS_PER_SM;
    return launch(stream, chip, gemv_chunks<SOURCE, NT, ONE>,
        dim3(n_most < n_shares ? n_most : n_shares), BLOCK, bytes, args);
}

template <typename SOURCE>
static int chunks_of_format(CUstream_st *stream, const lam_cuda_chip *chip, gemv_args args)
{
    args.n_steps = args.n_cols / CHUNK_K;
    args.n_groups = args.n_steps * (CHUNK_K / GROUP_K);
    args.n_slices = args.n_steps >= 8 ? 8 : args.n_steps >= 4 ? 4 : args.n_steps >= 2 ? 2 : 1;
    args.tiles_per_block = N_WARPS / args.n_slices;
    args.n_units = div_up(args.mats[MATS_MAX - 1].tiles_end, args.tiles_per_block);
    args.facts = reinterpret_cast<float2 *>(
        static_cast<math_int8::operand *>(args.split) + 4 * args.n_groups * 32);
    if (args.n_rows == 1 && chunks_smem<1, true>(&args, PARTS_MIN) <= chip->block_smem_bytes)
        return launch_chunks<SOURCE, 1, true>(stream, chip, args);
    if (args.n_rows <= 4)
        return launch_chunks<SOURCE, 1, false>(stream, chip, args);
    if (args.n_rows <= 8)
        return launch_chunks<SOURCE, 2, false>(stream, chip, args);
    return launch_chunks<SOURCE, 4, false>(stream, chip, args);
}

int lam_cuda_gemv_arranged(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_cuda_gemv_args *args, void *workspace)
{
    lam_dtype dtype = args->product.mats[0].dtype;
    const struct lam_dtype_info *info = lam_dtype_info(dtype);
    uint64_t row_bytes =
        static_cast<uint64_t>(args->product.n_cols) / info->block_elems * info->block_bytes;
    gemv_args own = gemv_args_of(args, row_bytes, workspace);

    return for_arranged(dtype, [&](auto tag) -> int {
        return chunks_of_format<arranged<decltype(tag)::value>>(stream, chip, own);
    });
}

template <typename SOURCE> static int prepare_chunks(const lam_cuda_chip *chip)
{
    int error = load_kernel_with(gemv_chunks<SOURCE, 1, true>, chip->block_smem_bytes);

    if (error == 0)
        error = load_kernel_with(gemv_chunks<SOURCE, 1, false>, chip->block_smem_bytes);
    if (error == 0)
        error = load_kernel_with(gemv_chunks<SOURCE, 2, false>, chip->block_smem_bytes);
    return error != 0 ? error
                      : load_kernel_with(gemv_chunks<SOURCE, 4, false>, chip->block_smem_bytes);
}

int lam_cuda_prepare_gemv_arranged(const lam_cuda_chip *chip)
{
    int error = load_kernel(split_rows<math_int8>);

    return error != 0 ? error : for_every_arranged([&](auto tag) -> int {
        return prepare_chunks<arranged<decltype(tag)::value>>(chip);
    });
}
