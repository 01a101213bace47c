/* matmul_many: see matmul_many.c. */
#ifndef LAMINAR_KERNELS_CUDA_MATMUL_MANY_H
#define LAMINAR_KERNELS_CUDA_MATMUL_MANY_H

#include "kernels/ops.h"

/*
 * Where an operation of n_rows by n_cols is to leave its result in 16 bits instead of in out,
 * because the product behind it wants it so: lam_matmul_args says when it may. NULL: nowhere. Every
 * operation that could be told of its product asks, so that the answer for the one before ends.
 */
void *lam_cuda_round_into(struct lam_kernels *kernels, const float *out, uint64_t n_rows,
    uint32_t n_cols, bool product_only);

/* Queues a product of more than LAM_CUDA_GEMV_ROWS_ONCE rows; errors are noted in the context. */
void lam_cuda_matmul_many(struct lam_kernels *kernels, const struct lam_matmul_args *args);

#endif
