/*
 * step: a gateway's Step (proto/laminar/v1/worker.proto) as the engine takes it. Together with the
 * engine's own checks this is the border: behind it every number of the gateway's has been checked.
 */
#ifndef LAMINAR_WORKER_STEP_H
#define LAMINAR_WORKER_STEP_H

#include <stdint.h>

#include "common/status.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "worker/engine.h"

struct lam_step_limits {
    uint32_t max_seqs;
    uint32_t max_rows;
};

/*
 * Checks slots, counts and epochs; tokens, positions and sampling parameters are lam_engine_step's
 * to check. epochs: [max_seqs], of the slots' users. ret_rows: [max_seqs], step->n_rows of them are
 * filled; they point into the step. Errors: LAM_INVALID_ARGUMENT.
 */
LAM_MUST_USE enum lam_status lam_step_read(const Laminar__V1__Step *step,
    const struct lam_step_limits *limits, const uint32_t *epochs, struct lam_engine_rows *ret_rows,
    struct lam_err *err);

#endif
