/*
 * device_measure: how fast a GPU is: its link, its memory, products of each number format, and the
 * rest of a layer. Private to device.c, whose child does it.
 */
#ifndef LAMINAR_CLI_DEVICE_MEASURE_H
#define LAMINAR_CLI_DEVICE_MEASURE_H

#include <stdint.h>

#include "cli/device.h"
#include "common/status.h"
#include "kernels/cuda/open.h"

/* What the kernels that are measured must be made for. */
struct lam_kernel_config lam_device_measure_config(uint32_t device);

/*
 * Measures what the question wants and fills answer->link and the rates of answer->facts; a rate
 * that cannot be measured stays as it is. free_bytes: of the device's memory, of which a sixteenth
 * is taken, and 512 MiB at least. Nothing is given back: the process ends. Errors: those of the
 * device; what errno says when there is no memory to copy from.
 */
LAM_MUST_USE enum lam_status lam_device_measure(const struct lam_cuda_backend *backend,
    struct lam_kernels *kernels, uint64_t free_bytes, const struct lam_device_question *question,
    struct lam_device_answer *answer, struct lam_err *err);

#endif
