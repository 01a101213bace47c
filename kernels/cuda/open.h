/*
 * open: finds the GPU backend, one shared library that is opened at run time, so that the same
 * programs run on machines with and without a GPU.
 */
#ifndef LAMINAR_KERNELS_CUDA_OPEN_H
#define LAMINAR_KERNELS_CUDA_OPEN_H

#include <stdint.h>

#include "common/status.h"
#include "kernels/device.h"
#include "kernels/ops.h"

/* Changes with every change of ops.h, device.h or this file that old callers would not survive. */
#define LAM_CUDA_ABI 5u

struct lam_cuda_backend {
    const struct lam_kernel_ops *ops;
    const struct lam_device_ops *device;
};

/* What the library exports. NULL when it does not speak this abi. */
const struct lam_cuda_backend *lam_kernels_cuda(uint32_t abi);

/*
 * Opens liblaminar-cuda.so: in `folder`, or (NULL) beside the executable, in ../lib of it, or
 * where a build leaves it. It stays open. Errors: LAM_NOT_FOUND (no such file), LAM_UNAVAILABLE
 * (it cannot be loaded: the sentence has the loader's words), LAM_FAILED_PRECONDITION (from
 * another version). Whether there is a GPU is found out by create.
 */
LAM_MUST_USE enum lam_status lam_cuda_open(
    const char *folder, const struct lam_cuda_backend **ret_backend, struct lam_err *err);

#endif
