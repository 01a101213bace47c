/*
 * context: a CUDA context of ours, and what backend.c (operations) and device.c (memory, transfers,
 * marks) share. Nothing else includes it.
 */
#ifndef LAMINAR_KERNELS_CUDA_CONTEXT_H
#define LAMINAR_KERNELS_CUDA_CONTEXT_H

#include <cuda_runtime_api.h>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/kept.h"
#include "kernels/cuda/memory_use.h"
#include "kernels/device.h"

/* Uploads go through two halves of pinned memory in turn. */
enum { LAM_CUDA_STAGING_BYTES = 4 << 20, LAM_CUDA_HOST_BLOCKS = 16 };

struct lam_cuda_staging {
    unsigned char *base;
    uint32_t half; /* that is being filled */
    uint64_t used_bytes;
    cudaEvent_t read[2]; /* the copies out of a half are complete */
};

struct lam_kernels {
    struct lam_kernel_config config;
    struct lam_cuda_chip chip;
    char name[96];
    char description[192];
    struct lam_cuda_memory_use use;
    uint64_t own_bytes;
    bool own_is_exact;

    cudaStream_t compute;
    cudaStream_t copy;
    cudaEvent_t marks[LAM_DEVICE_MARKS];
    struct lam_cuda_staging staging;
    void *host_blocks[LAM_CUDA_HOST_BLOCKS];
    uint32_t n_host_blocks;
    void *arena;
    struct lam_cuda_blas *blas; /* NULL: gemm.cu does it */

    unsigned char *rows; /* the workspace's four parts */
    unsigned char *tile;
    unsigned char *splits;
    uint32_t *arrived;
    uint32_t split_tokens;

    struct lam_cuda_kept kept;

    /* What `rows` holds in 16 bits for the product that comes next; x NULL: nothing. */
    struct {
        const float *x;
        uint64_t n;
    } rounded;

    cudaError_t error; /* the first; everything later is its consequence */
    const char *error_call;
};

/* Keeps the first error of a call named `call`. */
void lam_cuda_note(struct lam_kernels *kernels, cudaError_t error, const char *call);

/* Queues what is kept back. Everything that puts something on the compute queue, or
 * marks it, calls this first. */
void lam_cuda_flush(struct lam_kernels *kernels);

extern const struct lam_device_ops lam_cuda_device_ops;

/* Streams, marks, staging. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_cuda_device_init(struct lam_kernels *kernels, struct lam_err *err);
void lam_cuda_device_done(struct lam_kernels *kernels); /* half-built is allowed */

#endif
