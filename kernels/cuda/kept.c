/*
 * kept: operations that wait a moment for those behind them. Each kernel in a chain of few rows
 * costs some microseconds however little it does; so small operations ride with a product of up to
 * LAM_CUDA_GEMV_ROWS rows:
 *
 *     rms_norm  a product of what it made
 *     a product of q, k and v   both rotations and the kv_write behind them
 *     a product of gate and up  the swiglu behind it
 *     both rotations            the kv_write behind them, for any number of rows
 *
 * Everything that fits nothing goes as it came, in order. What is in memory afterwards is the same,
 * bit for bit, also of what lies between the operations.
 */
#include "kernels/cuda/kept.h"

#include <assert.h>

#include "kernels/cuda/context.h"

static void note(struct lam_kernels *kernels, int error, const char *call)
{
    lam_cuda_note(kernels, (cudaError_t)error, call);
}

static void launch_norm(struct lam_kernels *kernels, const struct lam_rms_norm_args *args)
{
    note(kernels, lam_cuda_rms_norm(kernels->compute, &kernels->chip, args), "rms_norm");
}

static void launch_one_dtype(struct lam_kernels *kernels, const struct lam_cuda_gemv_args *args)
{
    const struct lam_matmul_mat *mat = &args->product.mats[0];
    int error;

    if (mat->arranged && mat->dtype != LAM_BF16) {
        note(kernels, lam_cuda_gemv_arranged(kernels->compute, &kernels->chip, args, kernels->rows),
            "matmul of few rows");
        return;
    }
    switch (mat->dtype) {
    case LAM_F32:
    case LAM_F16:
    case LAM_BF16:
        error = lam_cuda_gemv_float(kernels->compute, &kernels->chip, args, kernels->rows);
        break;
    case LAM_Q4_K:
    case LAM_Q5_K:
    case LAM_Q6_K:
        error = lam_cuda_gemv_super(kernels->compute, &kernels->chip, args, kernels->rows);
        break;
    default:
        error = lam_cuda_gemv_block(kernels->compute, &kernels->chip, args, kernels->rows);
    }
    note(kernels, error, "matmul of few rows");
}

/* One launch for all matrices of one dtype and order. */
static void launch_product(struct lam_kernels *kernels, const struct lam_cuda_gemv_args *args)
{
    const struct lam_matmul_args *all = &args->product;
    bool done[3] = {false, false, false};

    for (uint32_t i = 0; i < all->n_mats; i++) {
        struct lam_cuda_gemv_args part = *args;
        part.product.n_mats = 0;
        for (uint32_t m = i; m < all->n_mats; m++) {
            if (done[m] || all->mats[m].dtype != all->mats[i].dtype ||
                all->mats[m].arranged != all->mats[i].arranged)
                continue;
            part.product.mats[part.product.n_mats++] = all->mats[m];
            done[m] = true;
        }
        if (part.product.n_mats > 0)
            launch_one_dtype(kernels, &part);
    }
}

/* The norm and the product that are kept, the latter with what it takes along. */
static void launch_kept(struct lam_kernels *kernels, const struct lam_swiglu_args *swiglu,
    const struct lam_cuda_rope_kv_args *rope_kv)
{
    struct lam_cuda_kept *kept = &kernels->kept;
    struct lam_cuda_gemv_args args = {kept->product, NULL, swiglu, rope_kv};

    if (kept->has_product) {
        args.norm = kept->has_norm ? &kept->norm : NULL;
        launch_product(kernels, &args);
    } else if (kept->has_norm) {
        launch_norm(kernels, &kept->norm);
    }
    kept->has_norm = false;
    kept->has_product = false;
}

void lam_cuda_flush(struct lam_kernels *kernels)
{
    struct lam_cuda_kept *kept = &kernels->kept;
    uint32_t n = kept->n_ropes;

    launch_kept(kernels, NULL, NULL);
    kept->n_ropes = 0;
    for (uint32_t i = 0; i < n; i++)
        note(kernels, lam_cuda_rope(kernels->compute, &kernels->chip, &kept->ropes[i]), "rope");
}

void lam_cuda_keep_norm(struct lam_kernels *kernels, const struct lam_rms_norm_args *args)
{
    lam_cuda_flush(kernels);
    kernels->kept.norm = *args;
    kernels->kept.has_norm = true;
}

/* Blocks of the product would read the norm's x while others store results. */
static bool overwrites(const struct lam_matmul_args *args, const float *x)
{
    for (uint32_t m = 0; m < args->n_mats; m++) {
        if (args->mats[m].out == x)
            return true;
    }
    return false;
}

static bool takes_norm(const struct lam_cuda_kept *kept, const struct lam_matmul_args *args)
{
    const struct lam_rms_norm_args *norm = &kept->norm;

    return kept->has_norm && !kept->has_product && norm->out == args->x && norm->out != norm->x &&
           norm->n_rows == args->n_rows && norm->n_cols == args->n_cols && !args->accumulate &&
           !overwrites(args, norm->x);
}

void lam_cuda_keep_product(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    struct lam_cuda_kept *kept = &kernels->kept;

    assert(args->n_rows <= LAM_CUDA_GEMV_ROWS);
    if (!takes_norm(kept, args))
        lam_cuda_flush(kernels);
    kept->product = *args;
    kept->has_product = true;
    if (args->n_mats == 1 || args->accumulate)
        launch_kept(kernels, NULL, NULL);
}

void lam_cuda_keep_rope(struct lam_kernels *kernels, const struct lam_rope_args *args)
{
    struct lam_cuda_kept *kept = &kernels->kept;

    if (kept->n_ropes == 2 || (kept->has_norm && !kept->has_product))
        lam_cuda_flush(kernels);
    kept->ropes[kept->n_ropes++] = *args;
}

/* Whether a matrix of the product makes exactly these rows of heads. */
static bool makes(const struct lam_matmul_mat *mat, const float *rows, uint32_t n_heads, uint32_t d)
{
    return mat->out == rows && mat->n_out == n_heads * d && mat->out_stride == mat->n_out;
}

static bool product_takes(const struct lam_cuda_kept *kept, const struct lam_cuda_rope_kv_args *all)
{
    const struct lam_matmul_args *product = &kept->product;
    const struct lam_kv_layer *kv = &all->write.kv;

    return kept->has_product && product->n_mats == 3 && product->n_rows == all->q.n_rows &&
           all->q.pairing == LAM_ROPE_ADJACENT &&
           makes(&product->mats[0], all->q.x, all->q.n_heads, kv->head_dim) &&
           makes(&product->mats[1], all->k.x, kv->n_kv_heads, kv->head_dim) &&
           makes(&product->mats[2], all->write.v, kv->n_kv_heads, kv->head_dim);
}

void lam_cuda_take_kv_write(struct lam_kernels *kernels, const struct lam_kv_write_args *args)
{
    struct lam_cuda_kept *kept = &kernels->kept;

    if (kept->n_ropes == 2) {
        const struct lam_cuda_rope_kv_args all = {kept->ropes[0], kept->ropes[1], *args};
        if (lam_cuda_rope_kv_fits(&all)) {
            bool taken = product_takes(kept, &all);
            kept->n_ropes = 0;
            launch_kept(kernels, NULL, taken ? &all : NULL);
            if (!taken)
                note(kernels, lam_cuda_rope_kv(kernels->compute, &kernels->chip, &all), "kv_write");
            return;
        }
    }
    lam_cuda_flush(kernels);
    note(kernels, lam_cuda_kv_write(kernels->compute, &kernels->chip, args), "kv_write");
}

static bool takes_swiglu(const struct lam_cuda_kept *kept, const struct lam_swiglu_args *args)
{
    const struct lam_matmul_args *product = &kept->product;
    const struct lam_matmul_mat *gate = &product->mats[0], *up = &product->mats[1];

    return kept->has_product && kept->n_ropes == 0 && product->n_mats == 2 &&
           gate->dtype == up->dtype && gate->arranged == up->arranged && gate->out == args->gate &&
           up->out == args->up && args->out == args->gate && gate->n_out == up->n_out &&
           gate->out_stride == gate->n_out && up->out_stride == up->n_out &&
           args->n == (uint64_t)product->n_rows * gate->n_out;
}

void lam_cuda_take_swiglu(struct lam_kernels *kernels, const struct lam_swiglu_args *args)
{
    if (takes_swiglu(&kernels->kept, args)) {
        launch_kept(kernels, args, NULL);
        return;
    }
    lam_cuda_flush(kernels);
    note(kernels, lam_cuda_swiglu(kernels->compute, &kernels->chip, args), "swiglu");
}
