/*
 * device: what --device means on this machine: the host's own kernels, or a GPU through the library
 * that is opened at run time (kernels/cuda/open.h).
 */
#ifndef LAMINAR_WORKER_DEVICE_H
#define LAMINAR_WORKER_DEVICE_H

#include "common/status.h"
#include "kernels/device.h"
#include "kernels/ops.h"

struct lam_device_choice {
    char name[32]; /* "cpu", "cuda:0" */
    const struct lam_kernel_ops *ops;
    const struct lam_device_ops *device; /* NULL: cpu */
    uint32_t index;
    char why[400]; /* what auto came to; "" when nothing was left to choose */
};

/*
 * name: "cpu", "cuda:N", or "auto": GPU 0 if there is one, else cpu. cpu_kernels: their name in
 * kernels/ops.h. library: folder of liblaminar-cuda.so, NULL: where it usually is.
 * Errors: LAM_INVALID_ARGUMENT (no such name); those of lam_cuda_open, with the way out.
 */
LAM_MUST_USE enum lam_status lam_device_choose(const char *name, const char *cpu_kernels,
    const char *library, struct lam_device_choice *ret_choice, struct lam_err *err);

#endif
