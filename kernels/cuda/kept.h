/*
 * kept: operations that are not queued at once, because one behind them may take them along in its
 * launch (kept.c says which). lam_cuda_flush (context.h) queues what is kept.
 */
#ifndef LAMINAR_KERNELS_CUDA_KEPT_H
#define LAMINAR_KERNELS_CUDA_KEPT_H

#include "kernels/ops.h"

struct lam_cuda_kept {
    struct lam_rms_norm_args norm;
    struct lam_matmul_args product; /* with the norm before it, if both are there */
    struct lam_rope_args ropes[2];
    uint32_t n_ropes;
    bool has_norm;
    bool has_product;
};

/* Calls with at least one row, as in ops.h; products of at most LAM_CUDA_GEMV_ROWS rows. */
void lam_cuda_keep_norm(struct lam_kernels *kernels, const struct lam_rms_norm_args *args);
void lam_cuda_keep_product(struct lam_kernels *kernels, const struct lam_matmul_args *args);
void lam_cuda_keep_rope(struct lam_kernels *kernels, const struct lam_rope_args *args);
void lam_cuda_take_kv_write(struct lam_kernels *kernels, const struct lam_kv_write_args *args);
void lam_cuda_take_swiglu(struct lam_kernels *kernels, const struct lam_swiglu_args *args);

#endif
