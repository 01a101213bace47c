/*
 * matmul_many: products of more rows than gemv takes, in f16 on tensor cores. Up to
 * LAM_CUDA_GEMM64_ROWS rows the weights are unpacked inside the product (gemm64*.cu), if it takes
 * the matrix; else a tile of weights at a time is unpacked into the workspace (pack.cu) and
 * multiplied by cuBLAS or gemm.cu. Which way is a matter of the number of rows and of the matrix
 * alone. Within a way a row's bits do not depend on the other rows; between the ways they differ by
 * the rounding of weights and sums.
 */
#include "kernels/cuda/matmul_many.h"

#include <assert.h>

#include "kernels/cuda/context.h"

enum {
    TILE_ROWS_ALIGN = 128,
    TILE_ROWS_MAX = 65408, /* the grid's second axis ends at 65535 */
};

static uint32_t align_up(uint64_t a, uint32_t align)
{
    return (uint32_t)((a + align - 1) / align * align);
}

static bool blas_takes(struct lam_kernels *kernels, const struct lam_cuda_gemm_args *args)
{
    return kernels->blas != NULL &&
           lam_device_workspace_split_bytes(&kernels->config) >= LAM_CUDA_BLAS_BYTES &&
           lam_cuda_blas_takes(kernels->blas, args, kernels->config.max_rows);
}

/* A tile of weights times all rows. Which of the two ways depends on the matrix alone. */
static void multiply_tile(struct lam_kernels *kernels, const struct lam_cuda_gemm_args *args)
{
    int error;

    if (blas_takes(kernels, args))
        error = lam_cuda_blas_gemm(kernels->blas, kernels->compute, args, kernels->splits);
    else
        error = lam_cuda_gemm(kernels->compute, &kernels->chip, args);
    lam_cuda_note(kernels, (cudaError_t)error, "matmul of many rows");
}

static void unpack_tile(struct lam_kernels *kernels, const struct lam_matmul_mat *mat,
    const unsigned char *weight, uint32_t n, uint32_t n_cols, uint32_t ld, unsigned char *to)
{
    int error;

    if (mat->arranged)
        error = lam_cuda_pack_arranged(
            kernels->compute, &kernels->chip, weight, mat->dtype, n, n_cols, to);
    else
        error = lam_cuda_pack_weights(
            kernels->compute, &kernels->chip, weight, mat->dtype, n, n_cols, ld, to);
    lam_cuda_note(kernels, (cudaError_t)error, "unpacking weights");
}

/* Whether the weights lie as a tile would. */
static bool lies_as_tile(
    const struct lam_matmul_args *args, const struct lam_matmul_mat *mat, uint32_t ld)
{
    return mat->dtype == LAM_F16 && ld == args->n_cols && (uintptr_t)mat->weight % 16 == 0;
}

/* Two matrices of one shape, both in the workspace or both where they are, in one product of
 * cuBLAS: keys and values are half a round of multiprocessors each. False: it cannot be. */
static bool matmul_two(struct lam_kernels *kernels, const struct lam_matmul_args *args,
    const struct lam_matmul_mat *mats, uint32_t ld)
{
    uint64_t tile_bytes = (uint64_t)mats[0].n_out * ld * 2;
    bool in_place = lies_as_tile(args, &mats[0], ld);
    struct lam_cuda_gemm_args gemm = {
        .x = kernels->rows,
        .w = in_place ? mats[0].weight : kernels->tile,
        .out = mats[0].out,
        .out_stride = mats[0].out_stride,
        .n_rows = args->n_rows,
        .n_out = mats[0].n_out,
        .ld = ld,
        .accumulate = args->accumulate,
        .w_next = tile_bytes / 2,
    };

    if (mats[1].n_out != mats[0].n_out || mats[1].out_stride != mats[0].out_stride ||
        lies_as_tile(args, &mats[1], ld) != in_place || mats[0].n_out > TILE_ROWS_MAX ||
        (uintptr_t)mats[1].out <= (uintptr_t)mats[0].out)
        return false;
    if (in_place && (uintptr_t)mats[1].weight <= (uintptr_t)mats[0].weight)
        return false;
    if (!in_place && 2 * tile_bytes > lam_device_workspace_tile_bytes(&kernels->config))
        return false;
    if (in_place)
        gemm.w_next = ((uintptr_t)mats[1].weight - (uintptr_t)mats[0].weight) / 2;
    gemm.out_next = ((uintptr_t)mats[1].out - (uintptr_t)mats[0].out) / sizeof(float);
    if (!blas_takes(kernels, &gemm))
        return false;
    for (uint32_t i = 0; i < 2 && !in_place; i++)
        unpack_tile(kernels, &mats[i], mats[i].weight, mats[i].n_out, args->n_cols, ld,
            kernels->tile + i * tile_bytes);
    multiply_tile(kernels, &gemm);
    return true;
}

/* One matrix, tile by tile; the rows lie in the workspace. F16 weights that lie as a tile would are
 * used where they are, all at once: the fewer the products, the fewer their last, half empty rounds
 * of multiprocessors. */
static void matmul_tiles(struct lam_kernels *kernels, const struct lam_matmul_args *args,
    const struct lam_matmul_mat *mat, uint32_t ld, uint64_t row_bytes)
{
    bool in_place = lies_as_tile(args, mat, ld);
    uint64_t fits = lam_device_workspace_tile_bytes(&kernels->config) / (2 * (uint64_t)ld) /
                    TILE_ROWS_ALIGN * TILE_ROWS_ALIGN;
    uint32_t rows_max = fits < TILE_ROWS_MAX && !in_place ? (uint32_t)fits : TILE_ROWS_MAX;
    uint32_t n_tiles = (mat->n_out + rows_max - 1) / rows_max;
    uint32_t tile_rows = align_up((mat->n_out + n_tiles - 1) / n_tiles, TILE_ROWS_ALIGN);

    for (uint32_t begin = 0; begin < mat->n_out; begin += tile_rows) {
        uint32_t n = mat->n_out - begin < tile_rows ? mat->n_out - begin : tile_rows;
        const unsigned char *weight = (const unsigned char *)mat->weight + begin * row_bytes;
        const struct lam_cuda_gemm_args gemm = {
            .x = kernels->rows,
            .w = in_place ? weight : kernels->tile,
            .out = mat->out + begin,
            .out_stride = mat->out_stride,
            .n_rows = args->n_rows,
            .n_out = n,
            .ld = ld,
            .accumulate = args->accumulate,
        };
        if (!in_place)
            unpack_tile(kernels, mat, weight, n, args->n_cols, ld, kernels->tile);
        multiply_tile(kernels, &gemm);
    }
}

/* The rows in 16 bits, then matrix by matrix. */
static void by_tiles(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    uint32_t ld = align_up(args->n_cols, LAM_CUDA_COLS_ALIGN);

    if (kernels->rounded.x == NULL)
        lam_cuda_note(kernels,
            (cudaError_t)lam_cuda_pack_rows(kernels->compute, &kernels->chip, args->x, args->n_rows,
                args->n_cols, ld, kernels->rows),
            "rounding activations");
    kernels->rounded.x = NULL;
    for (uint32_t i = 0; i < args->n_mats; i++) {
        uint64_t row_bytes;
        if (i + 1 < args->n_mats && matmul_two(kernels, args, &args->mats[i], ld)) {
            i++;
            continue;
        }
        bool whole = lam_dtype_row_bytes(args->mats[i].dtype, args->n_cols, &row_bytes);
        assert(whole);
        matmul_tiles(kernels, args, &args->mats[i], ld, row_bytes);
    }
}

/* The matrices of a call that gemm64 takes, all of one dtype and order in one launch. */
static void by_gemm64(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    bool done[3] = {false, false, false};

    lam_cuda_note(kernels,
        (cudaError_t)lam_cuda_gemm64_rows(
            kernels->compute, &kernels->chip, args->x, args->n_rows, args->n_cols, kernels->rows),
        "rounding activations");
    for (uint32_t i = 0; i < args->n_mats; i++) {
        struct lam_matmul_args part = *args;
        part.n_mats = 0;
        for (uint32_t m = i; m < args->n_mats; m++) {
            if (done[m] || args->mats[m].dtype != args->mats[i].dtype ||
                args->mats[m].arranged != args->mats[i].arranged)
                continue;
            part.mats[part.n_mats++] = args->mats[m];
            done[m] = true;
        }
        if (part.n_mats > 0)
            lam_cuda_note(kernels,
                (cudaError_t)lam_cuda_gemm64(
                    kernels->compute, &kernels->chip, &part, kernels->rows, kernels->tile),
                "matmul of a batch");
    }
}

void *lam_cuda_round_into(struct lam_kernels *kernels, const float *out, uint64_t n_rows,
    uint32_t n_cols, bool product_only)
{
    bool rounds =
        product_only && n_rows > LAM_CUDA_GEMM64_ROWS && n_cols % LAM_CUDA_COLS_ALIGN == 0;

    kernels->rounded.x = rounds ? out : NULL;
    kernels->rounded.n = n_rows * n_cols;
    return rounds ? kernels->rows : NULL;
}

void lam_cuda_matmul_many(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    struct lam_matmul_args packed = *args;
    struct lam_matmul_args tiled = *args;

    assert(kernels->rounded.x == NULL ||
           (kernels->rounded.x == args->x &&
               kernels->rounded.n == (uint64_t)args->n_rows * args->n_cols));
    packed.n_mats = 0;
    tiled.n_mats = 0;
    for (uint32_t i = 0; i < args->n_mats; i++) {
        struct lam_matmul_mat mat = args->mats[i];
        bool takes =
            args->n_rows <= LAM_CUDA_GEMM64_ROWS && lam_cuda_gemm64_takes(mat.dtype, args->n_cols);
        struct lam_matmul_args *to = takes ? &packed : &tiled;
        if (mat.arranged && mat.dtype == LAM_BF16) {
            mat.dtype = LAM_F16; /* is what it has become */
            mat.arranged = false;
        }
        to->mats[to->n_mats++] = mat;
    }
    if (packed.n_mats > 0)
        by_gemm64(kernels, &packed);
    if (tiled.n_mats > 0)
        by_tiles(kernels, &tiled);
}
