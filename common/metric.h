/*
 * metric: counters, gauges and histograms, written as Prometheus text.
 *
 * A service owns its metrics as fields of a struct and lists them once in an array; updating one is
 * a relaxed atomic operation from any thread. Names follow Prometheus:
 * `laminar_loader_disk_bytes_total`; times are kept in nanoseconds and written in seconds.
 */
#ifndef LAMINAR_COMMON_METRIC_H
#define LAMINAR_COMMON_METRIC_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"

enum lam_metric_kind { LAM_COUNTER, LAM_GAUGE, LAM_HISTOGRAM };
enum lam_metric_unit { LAM_UNIT_PLAIN, LAM_UNIT_SECONDS, LAM_UNIT_RATIO_PPM };

#define LAM_METRIC_BUCKETS_MAX 20

struct lam_metric {
    const char *name;
    const char *help;   /* one sentence; NULL in the second and later metrics of one name */
    const char *labels; /* `cause="disk"`, or NULL */
    enum lam_metric_kind kind;
    enum lam_metric_unit unit;  /* value: plain number, nanoseconds, millionths */
    atomic_uint_fast64_t value; /* histogram: sum of observations */
    /* Histograms: upper bounds in the unit of `value`, ascending; 0 ends them. */
    uint64_t bounds[LAM_METRIC_BUCKETS_MAX];
    atomic_uint_fast64_t counts[LAM_METRIC_BUCKETS_MAX + 1];
};

/* Counters and gauges. */
static inline void lam_metric_add(struct lam_metric *metric, uint64_t n)
{
    atomic_fetch_add_explicit(&metric->value, n, memory_order_relaxed);
}

static inline void lam_metric_set(struct lam_metric *metric, uint64_t value)
{
    atomic_store_explicit(&metric->value, value, memory_order_relaxed);
}

static inline uint64_t lam_metric_get(const struct lam_metric *metric)
{
    return atomic_load_explicit(&metric->value, memory_order_relaxed);
}

/* Histograms. */
void lam_metric_observe(struct lam_metric *metric, uint64_t value);

/* Appends the text of metrics[0, n). Metrics of one name stand together. False: no memory. */
LAM_MUST_USE bool lam_metrics_write(
    const struct lam_metric *const *metrics, size_t n, struct lam_buf *out);

#endif
