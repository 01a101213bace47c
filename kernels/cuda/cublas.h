/*
 * cublas: products of many rows through cuBLAS, where its library is found at run time; gemm.cu
 * does them where it is not. One algorithm is chosen when the context is created and used for all
 * shapes: one without a split of the long axis, so that a row's bits do not depend on the number of
 * rows of the call, as in gemm.cu. It allocates nothing on the device after create.
 */
#ifndef LAMINAR_KERNELS_CUDA_CUBLAS_H
#define LAMINAR_KERNELS_CUDA_CUBLAS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kernels/cuda/cuda.h"

/* Scratch of one product, 256-byte aligned. */
#define LAM_CUDA_BLAS_BYTES ((uint64_t)64 << 10)

struct lam_cuda_blas;

/*
 * Opens the library and runs the algorithm once, so that it is loaded. *ret_blas is NULL, without
 * an error, where there is no library or none that can do it. Errors: LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_cuda_blas_create(
    struct CUstream_st *stream, struct lam_cuda_blas **ret_blas, struct lam_err *err);
void lam_cuda_blas_destroy(struct lam_cuda_blas *blas); /* NULL is allowed */

/* The library's version, 130100 for 13.1. */
uint64_t lam_cuda_blas_version(const struct lam_cuda_blas *blas);

/* Whether a product with this output and these sides can be done, of one matrix or two, for any
 * number of rows up to n_rows_max. */
bool lam_cuda_blas_takes(
    const struct lam_cuda_blas *blas, const struct lam_cuda_gemm_args *args, uint32_t n_rows_max);

/* As lam_cuda_gemm, of one matrix or two: two small ones fill the multiprocessors that one would
 * leave idle. Returns a number of the runtime. */
int lam_cuda_blas_gemm(struct lam_cuda_blas *blas, struct CUstream_st *stream,
    const struct lam_cuda_gemm_args *args, void *scratch);

#endif
