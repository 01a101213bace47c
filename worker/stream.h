/*
 * stream (private to worker/): weights in device memory (weights.h). Pieces that the plan keeps on
 * the device are loaded once; the others flow through the ring, in the order of a pass, round and
 * round, so that the next pass finds its first ones there.
 */
#ifndef LAMINAR_WORKER_STREAM_H
#define LAMINAR_WORKER_STREAM_H

#include "kernels/device.h"
#include "worker/weights.h"

struct lam_stream_config {
    const struct lam_device_ops *device;
    struct lam_kernels *kernels;
    const struct lam_plan *plan;
    struct lam_units *units;
    unsigned char *arena; /* on the device */
    uint64_t pin_bytes;   /* of the pool, in one piece; 0: 1 GiB */
};

/*
 * Loads what is resident and returns when it is there; begins to pin the pool, on a thread of its
 * own; opens the session of the units that are streamed, if any. What the config points to must
 * outlive the source. Errors: those of units and device; LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_stream_create(
    const struct lam_stream_config *config, struct lam_weights **ret_weights, struct lam_err *err);

#endif
