/* matmul_many: see matmul_many.c. */
#ifndef LAMINAR_KERNELS_CUDA_MATMUL_MANY_H
#define LAMINAR_KERNELS_CUDA_MATMUL_MANY_H

#include "kernels/ops.h"

/* Queues a product of more than LAM_CUDA_GEMV_ROWS rows; errors are noted in the context. */
void lam_cuda_matmul_many(struct lam_kernels *kernels, const struct lam_matmul_args *args);

#endif
