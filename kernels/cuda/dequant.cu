/*
 * dequant: embedding rows to f32, bit for bit those of the reference.
 *
 * Bytes: packed row + 4 * n_cols, per row; a few dozen KiB a pass, so the launch is what it costs.
 * The row pointers travel as a kernel parameter: no copy, and nothing of the caller's is read
 * later.
 */
#include "kernels/cuda/cuda.h"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/unpack.cuh"

enum : uint32_t { BLOCK = 128, BATCH = 256 };

struct row_batch {
    const void *rows[BATCH];
};

/* A thread: eight columns of one row. Grid: (columns / 8 / BLOCK, rows). */
template <lam_dtype DTYPE>
static __global__ void __launch_bounds__(BLOCK)
    dequant_rows(const row_batch batch, uint32_t n_cols, float *out)
{
    const uint8_t *row = static_cast<const uint8_t *>(batch.rows[blockIdx.y]);
    uint32_t k = (blockIdx.x * BLOCK + threadIdx.x) * 8;
    float w[8];

    let_successors_begin();
    wait_for_predecessors();
    out += static_cast<size_t>(blockIdx.y) * n_cols;
    if (k + 8 <= n_cols) {
        unpack8<DTYPE>(row, k, w);
        for (uint32_t i = 0; i < 8; i++)
            out[k + i] = w[i];
    } else {
        for (; k < n_cols; k++)
            out[k] = unpack1<DTYPE>(row, k);
    }
}

int lam_cuda_dequant(CUstream_st *stream, const lam_cuda_chip *chip, const lam_dequant_args *args)
{
    dim3 grid(div_up(args->n_cols, 8 * BLOCK));
    int error = 0;

    for (uint32_t begin = 0; begin < args->n_rows && error == 0; begin += BATCH) {
        row_batch batch;
        grid.y = args->n_rows - begin < BATCH ? args->n_rows - begin : BATCH;
        for (uint32_t i = 0; i < BATCH; i++)
            batch.rows[i] = i < grid.y ? args->rows[begin + i] : NULL;
        float *out = args->out + static_cast<size_t>(begin) * args->n_cols;
        error = for_dtype(args->dtype, [&](auto tag) -> int {
            return launch(stream, chip, dequant_rows<decltype(tag)::value>, grid, BLOCK, 0, batch,
                args->n_cols, out);
        });
    }
    return error;
}

int lam_cuda_prepare_dequant(void)
{
    return for_every_dtype(
        [](auto tag) -> int { return load_kernel(dequant_rows<decltype(tag)::value>); });
}
