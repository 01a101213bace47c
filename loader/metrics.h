/*
 * metrics: what a loader tells those who operate it, as Prometheus text; docs/metrics.md lists it.
 * Everything is counted where it happens; here it is only collected, for each model.
 */
#ifndef LAMINAR_LOADER_METRICS_H
#define LAMINAR_LOADER_METRICS_H

#include "common/buf.h"
#include "common/status.h"
#include "loader/models.h"
#include "loader/pool.h"

/* Appends the text. False: no memory. [any thread, while the models are started] */
LAM_MUST_USE bool lam_loader_metrics_write(
    struct lam_models *models, const struct lam_pool *pool, struct lam_buf *out);

#endif
