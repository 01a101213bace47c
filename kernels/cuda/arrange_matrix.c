/*
 * arrange_matrix: the operation `arrange`: whether a matrix can be rearranged, and the way there
 * and back through the workspace's tile.
 */
#include "kernels/cuda/arrange_matrix.h"

#include <assert.h>

#include "kernels/cuda/context.h"

enum { ROWS_ALIGN = 16 };

/* BF16 to F16, unless that would lose too much. The host waits for the answer. */
static bool make_halves(struct lam_kernels *kernels, const struct lam_arrange_args *args)
{
    uint64_t n_weights = (uint64_t)args->n_out * args->n_cols;
    uint32_t *flag = (uint32_t *)(void *)kernels->tile;
    uint32_t lossy = 1;

    lam_cuda_note(kernels, cudaMemsetAsync(flag, 0, sizeof(*flag), kernels->compute), "arrange");
    lam_cuda_note(kernels,
        (cudaError_t)lam_cuda_check_halves(
            kernels->compute, &kernels->chip, args->weight, args->n_out, args->n_cols, flag),
        "arrange");
    lam_cuda_note(kernels,
        cudaMemcpyAsync(&lossy, flag, sizeof(lossy), cudaMemcpyDeviceToHost, kernels->compute),
        "arrange");
    lam_cuda_note(kernels, cudaStreamSynchronize(kernels->compute), "arrange");
    if (kernels->error != cudaSuccess || lossy != 0)
        return false;
    lam_cuda_note(kernels,
        (cudaError_t)lam_cuda_make_halves(
            kernels->compute, &kernels->chip, args->weight, n_weights),
        "arrange");
    return true;
}

/* As many rows at a time as the tile holds. */
static void make_chunks(struct lam_kernels *kernels, const struct lam_arrange_args *args)
{
    uint64_t fits, row_bytes;
    bool whole = lam_dtype_row_bytes(args->dtype, args->n_cols, &row_bytes);

    assert(whole);
    fits =
        lam_device_workspace_tile_bytes(&kernels->config) / (row_bytes * ROWS_ALIGN) * ROWS_ALIGN;
    assert(fits > 0); /* a tile holds 128 rows of the longest in 16 bits */
    for (uint64_t begin = 0; begin < args->n_out; begin += fits) {
        uint32_t n = (uint32_t)(args->n_out - begin < fits ? args->n_out - begin : fits);
        unsigned char *at = (unsigned char *)args->weight + begin * row_bytes;

        lam_cuda_note(kernels,
            cudaMemcpyAsync(
                kernels->tile, at, n * row_bytes, cudaMemcpyDeviceToDevice, kernels->compute),
            "arrange");
        lam_cuda_note(kernels,
            (cudaError_t)lam_cuda_arrange(
                kernels->compute, &kernels->chip, kernels->tile, args->dtype, n, args->n_cols, at),
            "arrange");
    }
}

bool lam_cuda_arrange_matrix(struct lam_kernels *kernels, const struct lam_arrange_args *args)
{
    assert(kernels->tile != NULL && args->n_cols <= kernels->config.max_cols);
    if (args->n_out == 0 ||
        !lam_cuda_arrange_takes(args->dtype, args->weight, args->n_out, args->n_cols))
        return false;
    lam_cuda_flush(kernels);
    if (args->dtype == LAM_BF16)
        return make_halves(kernels, args);
    make_chunks(kernels, args);
    return true;
}
