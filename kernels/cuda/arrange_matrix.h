/* arrange_matrix: see arrange_matrix.c. */
#ifndef LAMINAR_KERNELS_CUDA_ARRANGE_MATRIX_H
#define LAMINAR_KERNELS_CUDA_ARRANGE_MATRIX_H

#include "kernels/ops.h"

/* lam_kernel_ops.arrange of this backend. Errors are noted in the context. */
bool lam_cuda_arrange_matrix(struct lam_kernels *kernels, const struct lam_arrange_args *args);

#endif
