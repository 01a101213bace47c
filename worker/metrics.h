/*
 * metrics: what a worker tells those who operate it; docs/metrics.md lists it. The engine's thread
 * counts, the thread of the operations port writes the page.
 */
#ifndef LAMINAR_WORKER_METRICS_H
#define LAMINAR_WORKER_METRICS_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/metric.h"
#include "common/status.h"
#include "worker/engine.h"

/* In the order in which they are written: those of one name stand together. */
enum lam_worker_metric {
    LAM_WORKER_ATTACHED,
    LAM_WORKER_PASSES,
    LAM_WORKER_ROWS,
    LAM_WORKER_TOKENS,
    LAM_WORKER_PASS_SECONDS,
    LAM_WORKER_WAIT_DISK,
    LAM_WORKER_WAIT_LINK,
    LAM_WORKER_COMPUTE,
    LAM_WORKER_COPY,
    LAM_WORKER_FLOOR,
    LAM_WORKER_FLOOR_RATIO,
    LAM_WORKER_BYTES_LINK,
    LAM_WORKER_BYTES_RESIDENT,
    LAM_WORKER_MEMORY_CAP,
    LAM_WORKER_MEMORY_PLANNED,
    LAM_WORKER_MEMORY_MEASURED,
    LAM_WORKER_KV_PAGES,
    LAM_WORKER_KV_PAGES_USED,
    LAM_WORKER_METRICS,
};

struct lam_worker_metrics {
    struct lam_metric items[LAM_WORKER_METRICS];
};

/* With what the plan says. [the engine's thread, as the next three] */
void lam_worker_metrics_init(struct lam_worker_metrics *metrics, const struct lam_engine *engine);

void lam_worker_metrics_attached(struct lam_worker_metrics *metrics, bool attached);

/* A step has been carried out, with a pass or with nothing to compute; it brought n_tokens. */
void lam_worker_metrics_step(struct lam_worker_metrics *metrics, const struct lam_engine *engine,
    bool has_pass, size_t n_tokens);

/* What the process holds on its device, as it was read last (worker/held.h). */
void lam_worker_metrics_held(struct lam_worker_metrics *metrics, uint64_t bytes);

/* For lam_ops_config, arg: the metrics. [any thread] */
LAM_MUST_USE bool lam_worker_metrics_write(void *arg, struct lam_buf *out);
const char *lam_worker_metrics_unhealthy(void *arg);

#endif
