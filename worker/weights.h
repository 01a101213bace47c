/*
 * weights (private to worker/): where a pass finds the bytes of a piece of the plan. Two sources:
 * in the loader's pool (weights_pool.c, CPU), or in device memory, resident or in a ring that
 * copies fill ahead of use (stream.h).
 *
 * A pass takes all pieces in the plan's order: acquire, compute, release, then the next one. One
 * thread.
 */
#ifndef LAMINAR_WORKER_WEIGHTS_H
#define LAMINAR_WORKER_WEIGHTS_H

#include <stdint.h>

#include "common/status.h"
#include "model/plan.h"
#include "worker/profile.h"
#include "worker/units.h"

struct lam_weights;

struct lam_weights_ops {
    /* Before the first operation of a pass is queued. */
    void (*begin)(struct lam_weights *weights);

    /* *ret_base: the piece's first byte, where operations may read it until release; what
     * lam_plan_tensor_offset counts from. Errors: those of lam_units and of the device. */
    enum lam_status (*acquire)(struct lam_weights *weights, uint32_t piece,
        const unsigned char **ret_base, struct lam_err *err);

    /* The operations that read the piece have been called. */
    void (*release)(struct lam_weights *weights, uint32_t piece);

    /* The first byte of a piece that stays readable where it is for as long as the source lives;
     * NULL when it does not, or is not there yet. */
    const unsigned char *(*find)(struct lam_weights *weights, uint32_t piece);

    /* After the last operation and download: waits until all of them are complete. Adds what the
     * weights took to the profile: everything but wall_ns, n_rows and floor_ns. */
    enum lam_status (*finish)(
        struct lam_weights *weights, struct lam_pass_profile *profile, struct lam_err *err);

    void (*destroy)(struct lam_weights *weights);
};

struct lam_weights {
    const struct lam_weights_ops *ops;
};

/* In place, in the pool. Opens the units' session. Plan and units must outlive the source. */
LAM_MUST_USE enum lam_status lam_weights_pool_create(const struct lam_plan *plan,
    struct lam_units *units, struct lam_weights **ret_weights, struct lam_err *err);

#endif
