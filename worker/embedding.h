/*
 * embedding (private to worker/): where the packed rows of the embedding matrix come from.
 *
 * In place, where the matrix can be read: in its region of the arena (model/plan.h), or, in a model
 * whose head is the same matrix, in the head's weights as far as these stay where they are. Else
 * the rows are gathered from the loader (units.h) for each pass.
 */
#ifndef LAMINAR_WORKER_EMBEDDING_H
#define LAMINAR_WORKER_EMBEDDING_H

#include "worker/forward.h"

/* Fills the arena's region, if the plan has one. Once, at start. Errors: those of units. */
LAM_MUST_USE enum lam_status lam_embedding_load(struct lam_engine *engine, struct lam_err *err);

/* Brings the pass's arrival to where kernels read it and queues residual = rows of the layout's
 * ids, [n_rows, D]. Errors: those of units. */
LAM_MUST_USE enum lam_status lam_embedding_gather(
    struct lam_engine *engine, uint32_t n_rows, struct lam_err *err);

#endif
