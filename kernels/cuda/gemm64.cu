/*
 * gemm64: what surrounds the products of gemm64.cuh: x into the order of their operands, the cut of
 * small matrices into parts, and the sum of the parts.
 */
#include <assert.h>
#include <cuda_fp16.h>

#include "kernels/cuda/gemm64_args.cuh"
#include "kernels/device.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

enum : uint32_t {
    PACK_BLOCK = 256,
    TILE_OUT = 128,      /* results of a block of gemm64_units */
    PART_COLS_MIN = 512, /* of a part; a multiple of every format's step */
    BLOCKS_PER_SM = 2,
    SUM_COLS = 256, /* columns whose sums lie together */
};

static __device__ __forceinline__ uint32_t pair_of(float x, float y)
{
    __half2 pair = __floats2half2_rn(x, y);

    return *reinterpret_cast<const uint32_t *>(&pair);
}

/* Four columns as two pairs, 0 and 2, 1 and 3; returns their sum as they were rounded. */
static __device__ __forceinline__ float pack_four(const float *x, uint32_t (&pairs)[2])
{
    float4 four = make_float4(0, 0, 0, 0);

    if (x != NULL) {
        four.x = x[0] * LAM_CUDA_ROWS_SCALE;
        four.y = x[1] * LAM_CUDA_ROWS_SCALE;
        four.z = x[2] * LAM_CUDA_ROWS_SCALE;
        four.w = x[3] * LAM_CUDA_ROWS_SCALE;
    }
    pairs[0] = pair_of(four.x, four.z);
    pairs[1] = pair_of(four.y, four.w);
    float2 even = __half22float2(*reinterpret_cast<const __half2 *>(&pairs[0]));
    float2 odd = __half22float2(*reinterpret_cast<const __half2 *>(&pairs[1]));
    return even.x + even.y + (odd.x + odd.y);
}

/* A thread: eight values of a row, of 32 columns. Grid: all of [slice][nt][half][lane]; NT: eights
 * of rows. sums: as of gemm64_args, when n_cols is a multiple of 256, else NULL. */
static __global__ void __launch_bounds__(PACK_BLOCK) pack_operands(
    const float *x, uint32_t n_rows, uint32_t n_cols, uint32_t nt, uint4 *out, uint32_t *sums)
{
    uint32_t at = blockIdx.x * PACK_BLOCK + threadIdx.x;
    uint32_t lane = at % 32;
    uint32_t half = at / 32 % 2;
    uint32_t tile = at / 64 % nt;
    uint32_t slice = at / 64 / nt;
    uint32_t row = tile * 8 + lane / 4;
    uint32_t first[2];
    uint32_t second[2];

    let_successors_begin();
    wait_for_predecessors();
    if (slice >= n_cols / SLICE) /* whole warps: n_cols is a multiple of SLICE */
        return;
    const float *from =
        x + static_cast<size_t>(row) * n_cols + slice * SLICE + half * 32 + lane % 4 * 4;
    float sum = pack_four(row < n_rows ? from : NULL, first);
    sum += pack_four(row < n_rows ? from + 16 : NULL, second);
    out[at] = make_uint4(first[0], first[1], second[0], second[1]);
    if (sums == NULL)
        return;
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
    if (lane % 4 != 0)
        return;
    uint32_t group = slice * 2 + half;
    uint32_t to = ((group / 8 * nt + tile) * 32 + lane + group % 4) * 2 + group % 8 / 4;
    float whole = __half2float(__float2half_rn(sum));
    sums[to] = pair_of(whole, sum - whole);
}

/* Adds up the parts of matrices that have some. Grid: (columns / PACK_BLOCK, rows, matrices). */
static __global__ void __launch_bounds__(PACK_BLOCK) sum_parts(const gemm64_args args)
{
    const gemm64_mat &mat = args.mats[blockIdx.z];
    uint32_t n = blockIdx.x * PACK_BLOCK + threadIdx.x;
    size_t pitch = static_cast<size_t>(args.n_rows) * mat.n_out;
    float sum = 0;

    let_successors_begin();
    wait_for_predecessors();
    if (mat.n_parts == 1 || n >= mat.n_out)
        return;
    const float *from = mat.parts + static_cast<size_t>(blockIdx.y) * mat.n_out + n;
#pragma unroll 8
    for (uint32_t part = 0; part < mat.n_parts; part++)
        sum += from[part * pitch];
    float *out = mat.out + blockIdx.y * mat.out_stride + n;
    sum *= 1.0f / LAM_CUDA_ROWS_SCALE;
    *out = args.accumulate ? *out + sum : sum;
}

/* Enough units for the chip, of one matrix alone; parts of whole blocks of 256 columns. */
static uint32_t count_parts(const lam_cuda_chip *chip, uint32_t n_tiles, uint32_t n_cols)
{
    uint32_t wanted = n_tiles * 2 > chip->n_sms ? 1 : chip->n_sms * BLOCKS_PER_SM / n_tiles;
    uint32_t most = n_cols / PART_COLS_MIN;

    wanted = wanted < most ? wanted : most;
    return wanted > 1 ? wanted : 1;
}

static int launch_product(CUstream_st *stream, const lam_cuda_chip *chip, const lam_matmul_mat &mat,
    const gemm64_args &args)
{
    lam_dtype dtype = mat.dtype;

    if (mat.arranged)
        return lam_cuda_gemm64_arranged(stream, chip, dtype, args);
    switch (dtype) {
    case LAM_F16:
    case LAM_BF16:
        return lam_cuda_gemm64_float(stream, chip, dtype, args);
    case LAM_Q4_K:
    case LAM_Q5_K:
    case LAM_Q6_K:
        return lam_cuda_gemm64_super(stream, chip, dtype, args);
    default:
        return lam_cuda_gemm64_block(stream, chip, dtype, args);
    }
}

bool lam_cuda_gemm64_takes(lam_dtype dtype, uint32_t n_cols)
{
    return dtype != LAM_F32 && n_cols % SLICE == 0;
}

int lam_cuda_gemm64_rows(CUstream_st *stream, const lam_cuda_chip *chip, const float *x,
    uint32_t n_rows, uint32_t n_cols, void *rows)
{
    uint32_t nt = n_rows <= 32 ? 4 : 8;
    uint32_t n = n_cols / SLICE * nt * 64;
    uint4 *out = static_cast<uint4 *>(rows);
    uint32_t *sums = n_cols % SUM_COLS == 0 ? reinterpret_cast<uint32_t *>(out + n) : NULL;

    return launch(stream, chip, pack_operands, dim3(div_up(n, PACK_BLOCK)), PACK_BLOCK, 0, x,
        n_rows, n_cols, nt, out, sums);
}

int lam_cuda_gemm64(CUstream_st *stream, const lam_cuda_chip *chip, const lam_matmul_args *args,
    const void *rows, void *parts)
{
    lam_dtype dtype = args->mats[0].dtype;
    const struct lam_dtype_info *info = lam_dtype_info(dtype);
    uint32_t nt = args->n_rows <= 32 ? 4 : 8;
    gemm64_args own = {};
    float *next_parts = static_cast<float *>(parts);
    uint32_t units = 0;
    uint32_t n_most = 0;

    own.x = static_cast<const uint8_t *>(rows);
    own.n_slices = args->n_cols / SLICE;
    own.x_sums = own.x + static_cast<size_t>(own.n_slices) * nt * 1024;
    own.row_bytes = static_cast<uint64_t>(args->n_cols) / info->block_elems * info->block_bytes;
    own.n_rows = args->n_rows;
    own.accumulate = args->accumulate;
    for (uint32_t m = 0; m < MATS_MAX; m++) {
        bool there = m < args->n_mats;
        const lam_matmul_mat *mat = &args->mats[there ? m : args->n_mats - 1];
        gemm64_mat *to = &own.mats[m];
        to->weight = static_cast<const uint8_t *>(mat->weight);
        to->out = mat->out;
        to->out_stride = mat->out_stride;
        to->n_out = mat->n_out;
        to->n_tiles = div_up(mat->n_out, TILE_OUT);
        to->n_parts = there ? count_parts(chip, to->n_tiles, args->n_cols) : 1;
        units += there ? to->n_tiles * to->n_parts : 0;
        to->units_end = units;
        to->parts = next_parts;
        if (to->n_parts > 1) {
            next_parts += static_cast<size_t>(to->n_parts) * args->n_rows * mat->n_out;
            n_most = mat->n_out > n_most ? mat->n_out : n_most;
        }
    }
    assert(static_cast<uint64_t>(next_parts - static_cast<float *>(parts)) * sizeof(float) <=
           LAM_DEVICE_TILE_BYTES);
    int error = launch_product(stream, chip, args->mats[0], own);
    if (error != 0 || n_most == 0)
        return error;
    dim3 grid(div_up(n_most, PACK_BLOCK), args->n_rows, args->n_mats);
    return launch(stream, chip, sum_parts, grid, PACK_BLOCK, 0, own);
}

int lam_cuda_prepare_gemm64(void)
{
    int error = load_kernel(pack_operands);

    error = error != 0 ? error : load_kernel(sum_parts);
    error = error != 0 ? error : lam_cuda_prepare_gemm64_super();
    error = error != 0 ? error : lam_cuda_prepare_gemm64_block();
    error = error != 0 ? error : lam_cuda_prepare_gemm64_float();
    return error != 0 ? error : lam_cuda_prepare_gemm64_arranged();
}
