/*
 * metrics: what a gateway tells those who operate it; docs/metrics.md lists it. The I/O thread
 * counts, any thread writes the page.
 */
#ifndef LAMINAR_GATEWAY_METRICS_H
#define LAMINAR_GATEWAY_METRICS_H

#include "common/buf.h"
#include "common/metric.h"
#include "common/status.h"

/* In the order in which they are written: those of one name stand together. */
enum lam_gateway_metric {
    LAM_GATEWAY_STOPPED, /* requests, by how they ended */
    LAM_GATEWAY_CUT,
    LAM_GATEWAY_CANCELLED,
    LAM_GATEWAY_FAILED,
    LAM_GATEWAY_REFUSED,
    LAM_GATEWAY_OPEN,
    LAM_GATEWAY_WAITING,
    LAM_GATEWAY_PROMPT_TOKENS,
    LAM_GATEWAY_TOKENS,
    LAM_GATEWAY_PASSES,
    LAM_GATEWAY_ROWS,
    LAM_GATEWAY_WORKERS,
    LAM_GATEWAY_WORKERS_LOST,
    LAM_GATEWAY_QUEUE_SECONDS,
    LAM_GATEWAY_FIRST_TOKEN_SECONDS,
    LAM_GATEWAY_STEP_SECONDS,
    LAM_GATEWAY_METRICS,
};

struct lam_gateway_metrics {
    struct lam_metric items[LAM_GATEWAY_METRICS];
};

void lam_gateway_metrics_init(struct lam_gateway_metrics *metrics);

/* Appends the text. False: no memory. */
LAM_MUST_USE bool lam_gateway_metrics_write(
    const struct lam_gateway_metrics *metrics, struct lam_buf *out);

#endif
