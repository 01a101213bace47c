/*
 * gemm64_args: what the files of gemm64 share: the arguments of a launch, and one launcher per
 * family of formats. See gemm64.cuh.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMM64_ARGS_CUH
#define LAMINAR_KERNELS_CUDA_GEMM64_ARGS_CUH

#include "kernels/cuda/cuda.h"

enum : uint32_t {
    SLICE = 64, /* columns of x that are shared at a time */
    MATS_MAX = 3,
};

struct gemm64_mat {
    const uint8_t *weight;
    float *out;
    float *parts; /* [n_parts, n_rows, n_out], when there are more than one */
    uint64_t out_stride;
    uint32_t n_out;
    uint32_t n_tiles;
    uint32_t n_parts;
    uint32_t units_end; /* tiles * parts of this matrix and those before it */
};

struct gemm64_args {
    gemm64_mat mats[MATS_MAX];
    /* F16: [slice][rows / 8][2][lane] of 16 bytes; lane (g, t) has of row g of eight columns 4t to
     * 4t + 3 of 16 and of the next 16, each four in the order 0, 2, 1, 3. */
    const uint8_t *x;
    /* Sums of 32 columns in two F16: [256 columns][rows / 8][lane][2] pairs; lane (g, t) has of row
     * g sums t and t + 4. */
    const uint8_t *x_sums;
    uint64_t row_bytes; /* of a matrix */
    uint32_t n_rows;
    uint32_t n_slices;
    bool accumulate;
};

int lam_cuda_gemm64_super(
    CUstream_st *stream, const lam_cuda_chip *chip, lam_dtype dtype, const gemm64_args &args);
int lam_cuda_gemm64_block(
    CUstream_st *stream, const lam_cuda_chip *chip, lam_dtype dtype, const gemm64_args &args);
int lam_cuda_gemm64_float(
    CUstream_st *stream, const lam_cuda_chip *chip, lam_dtype dtype, const gemm64_args &args);
int lam_cuda_gemm64_arranged(
    CUstream_st *stream, const lam_cuda_chip *chip, lam_dtype dtype, const gemm64_args &args);
int lam_cuda_prepare_gemm64_super(void);
int lam_cuda_prepare_gemm64_block(void);
int lam_cuda_prepare_gemm64_float(void);
int lam_cuda_prepare_gemm64_arranged(void);

/* Whether all rows of all matrices begin at multiples of `align`. */
static inline bool gemm64_aligned(const gemm64_args &args, uint32_t align)
{
    uintptr_t bits = static_cast<uintptr_t>(args.row_bytes);

    for (uint32_t m = 0; m < MATS_MAX; m++)
        bits |= reinterpret_cast<uintptr_t>(args.mats[m].weight);
    return bits % align == 0;
}

#endif
