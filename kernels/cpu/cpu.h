/* cpu: what tests and benchmarks may know about the CPU backend beyond ops.h. */
#ifndef LAMINAR_KERNELS_CPU_CPU_H
#define LAMINAR_KERNELS_CPU_CPU_H

#include "kernels/ops.h"

enum lam_cpu_level {
    LAM_CPU_BEST,
    LAM_CPU_AVX2,
    LAM_CPU_AVX512,
};

/* As the table's create, with the instruction set fixed. Errors: LAM_UNIMPLEMENTED when the CPU
 * lacks it. */
LAM_MUST_USE enum lam_status lam_cpu_create(const struct lam_kernel_config *config,
    enum lam_cpu_level level, struct lam_kernels **ret_kernels, struct lam_err *err);

#endif
