/*
 * arrange (private to worker/): matrices that stay on the device, put into the order in which its
 * kernels read them fastest (lam_kernel_ops.arrange), once.
 */
#ifndef LAMINAR_WORKER_ARRANGE_H
#define LAMINAR_WORKER_ARRANGE_H

#include "worker/forward.h"

/* Fills engine->arranged; nothing is streamed yet. A backend without such an order: nothing
 * happens. A head whose rows are also the embedding's stays as it is. Errors:
 * LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_arrange_residents(struct lam_engine *engine, struct lam_err *err);

#endif
