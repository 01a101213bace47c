/*
 * gemm: out[t, n] (+)= sum_k x[t, k] * w[n, k] on tensor cores, for calls of many rows.
 *
 * Operations: 2 * T * N * K, f16 times f16 into f32: bound by the tensor cores from about 200 rows
 * on, below that by reading w (2 * N * K bytes). mma.sync runs on every chip since sm_80; of what an
 * H100 can it reaches 272 TFLOP/s with 2048 rows, where cuBLAS has 730: this is for machines and
 * shapes without it.
 *
 * How. A block makes a tile of BM rows by BN columns; columns of x and w come in slices of 64
 * (128 bytes a row) through cp.async into a ring of STAGES. In shared memory piece p of 16 bytes of
 * row r lies at place p ^ (r % 8), which keeps ldmatrix off its own banks. Each sum runs over k in
 * order and in one accumulator, whatever the tile's shape: a row's bits do not depend on the number
 * of rows of the call.
 *
 * Blocks are numbered so that those that run together share slices of w and x in the L2 cache.
 */
#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

enum { SLICE_BYTES = 128, PIECES = SLICE_BYTES / 16 };

/* A block of 2 x 4 warps (2 x 2 for the small one), each with its own part of the tile. */
template <int BM_, int BN_, int WARPS_M_, int WARPS_N_, int STAGES_> struct tile_shape {
    enum {
        BM = BM_,
        BN = BN_,
        WARPS_M = WARPS_M_,
        WARPS_N = WARPS_N_,
        STAGES = STAGES_,
        THREADS = WARPS_M * WARPS_N * 32,
        M_TILES = BM / WARPS_M / 16, /* of a warp, 16 rows each */
        N_TILES = BN / WARPS_N / 8,  /* 8 columns each */
        STAGE_BYTES = (BM + BN) * SLICE_BYTES,
        SMEM_BYTES = STAGES * STAGE_BYTES,
    };
};

typedef tile_shape<128, 128, 2, 4, 3> large_tile;
typedef tile_shape<64, 64, 2, 2, 4> small_tile;

/* Begins to copy slice `slice` of ROWS rows into shared memory; rows beyond the end repeat the
 * last, their results are not stored. */
template <int ROWS, int THREADS>
static __device__ __forceinline__ void begin_rows(uint32_t to, const uint8_t *from, uint64_t pitch,
    uint32_t first, uint32_t n_rows, uint32_t slice)
{
#pragma unroll
    for (uint32_t i = 0; i < ROWS * PIECES / THREADS; i++) {
        uint32_t at = i * THREADS + threadIdx.x;
        uint32_t r = at / PIECES;
        uint32_t piece = at % PIECES;
        uint32_t row = first + r < n_rows ? first + r : n_rows - 1;
        copy_async_16(to + r * SLICE_BYTES + (piece ^ r % 8) * 16,
            from + row * pitch + static_cast<uint64_t>(slice) * SLICE_BYTES + piece * 16);
    }
}

/* Address of the ldmatrix row of this lane: 16 rows from `row`, 2 pieces from `piece`. */
static __device__ __forceinline__ uint32_t matrix_row(uint32_t tile, uint32_t row, uint32_t piece)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t r = row + lane % 16;

    return tile + r * SLICE_BYTES + ((piece + lane / 16) ^ r % 8) * 16;
}

template <typename TILE>
static __device__ __forceinline__ void multiply_slice(
    uint32_t x, uint32_t w, float (&c)[TILE::M_TILES][TILE::N_TILES][4])
{
    uint32_t warp = threadIdx.x / 32;
    uint32_t m = warp / TILE::WARPS_N * (TILE::M_TILES * 16);
    uint32_t n = warp % TILE::WARPS_N * (TILE::N_TILES * 8);

#pragma unroll
    for (uint32_t k = 0; k < PIECES; k += 2) {
        uint32_t a[TILE::M_TILES][4];
        uint32_t b[TILE::N_TILES / 2][4];
#pragma unroll
        for (uint32_t i = 0; i < TILE::M_TILES; i++)
            load_matrices(a[i], matrix_row(x, m + i * 16, k));
#pragma unroll
        for (uint32_t j = 0; j < TILE::N_TILES / 2; j++)
            load_matrices(b[j], matrix_row(w, n + j * 16, k));
#pragma unroll
        for (uint32_t i = 0; i < TILE::M_TILES; i++) {
#pragma unroll
            for (uint32_t j = 0; j < TILE::N_TILES; j++)
                mma_f16(c[i][j], a[i], b[j / 2][j % 2], b[j / 2][j % 2 + 2]);
        }
    }
}

template <typename TILE>
static __device__ __forceinline__ void store_tile(const lam_cuda_gemm_args &args, uint32_t row,
    uint32_t column, const float (&c)[TILE::M_TILES][TILE::N_TILES][4])
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    uint32_t m = row + warp / TILE::WARPS_N * (TILE::M_TILES * 16) + lane / 4;
    uint32_t n = column + warp % TILE::WARPS_N * (TILE::N_TILES * 8) + lane % 4 * 2;

#pragma unroll
    for (uint32_t i = 0; i < TILE::M_TILES; i++) {
#pragma unroll
        for (uint32_t j = 0; j < TILE::N_TILES; j++) {
#pragma unroll
            for (uint32_t e = 0; e < 4; e++) {
                uint32_t t = m + i * 16 + e / 2 * 8;
                uint32_t at = n + j * 8 + e % 2;
                if (t >= args.n_rows || at >= args.n_out)
                    continue;
                float *out = args.out + t * args.out_stride + at;
                float value = c[i][j][e] * (1.0f / LAM_CUDA_ROWS_SCALE);
                *out = args.accumulate ? *out + value : value;
            }
        }
    }
}

/* Grid: one block per tile. */
template <typename TILE>
static __global__ void __launch_bounds__(TILE::THREADS, 2)
    gemm_tiles(const lam_cuda_gemm_args args, uint32_t n_row_tiles)
{
    extern __shared__ uint4 smem[];
    uint32_t ring = static_cast<uint32_t>(__cvta_generic_to_shared(smem));
    uint32_t row = blockIdx.x % n_row_tiles * TILE::BM;
    uint32_t column = blockIdx.x / n_row_tiles * TILE::BN;
    const uint8_t *x = static_cast<const uint8_t *>(args.x);
    const uint8_t *w = static_cast<const uint8_t *>(args.w);
    uint64_t pitch = static_cast<uint64_t>(args.ld) * 2;
    uint32_t n_slices = args.ld * 2 / SLICE_BYTES;
    float c[TILE::M_TILES][TILE::N_TILES][4] = {};

    auto begin_slice = [&](uint32_t slice) {
        uint32_t stage = ring + slice % TILE::STAGES * TILE::STAGE_BYTES;
        if (slice < n_slices) {
            begin_rows<TILE::BM, TILE::THREADS>(stage, x, pitch, row, args.n_rows, slice);
            begin_rows<TILE::BN, TILE::THREADS>(
                stage + TILE::BM * SLICE_BYTES, w, pitch, column, args.n_out, slice);
        }
        copy_async_commit();
    };

    let_successors_begin();
    wait_for_predecessors();
    for (uint32_t i = 0; i < TILE::STAGES - 1; i++)
        begin_slice(i);
    for (uint32_t slice = 0; slice < n_slices; slice++) {
        copy_async_wait<TILE::STAGES - 2>();
        __syncthreads(); /* the slice is there for all, and its predecessor is read by all */
        begin_slice(slice + TILE::STAGES - 1);
        uint32_t stage = ring + slice % TILE::STAGES * TILE::STAGE_BYTES;
        multiply_slice<TILE>(stage, stage + TILE::BM * SLICE_BYTES, c);
    }
    store_tile<TILE>(args, row, column, c);
}

template <typename TILE>
static int launch_gemm(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_cuda_gemm_args &args)
{
    uint32_t n_row_tiles = div_up(args.n_rows, TILE::BM);
    uint32_t n_tiles = n_row_tiles * div_up(args.n_out, TILE::BN);

    return launch(stream, chip, gemm_tiles<TILE>, dim3(n_tiles), TILE::THREADS, TILE::SMEM_BYTES,
        args, n_row_tiles);
}

int lam_cuda_gemm(CUstream_st *stream, const lam_cuda_chip *chip, const lam_cuda_gemm_args *args)
{
    uint32_t n_large = div_up(args->n_rows, large_tile::BM) * div_up(args->n_out, large_tile::BN);

    if (args->n_rows <= small_tile::BM || n_large < chip->n_sms / 2)
        return launch_gemm<small_tile>(stream, chip, *args);
    return launch_gemm<large_tile>(stream, chip, *args);
}

int lam_cuda_prepare_gemm(const lam_cuda_chip *chip)
{
    int error = load_kernel_with(gemm_tiles<small_tile>, chip->block_smem_bytes);

    return error != 0 ? error : load_kernel_with(gemm_tiles<large_tile>, chip->block_smem_bytes);
}
