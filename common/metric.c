/* metric: see metric.h. Format: Prometheus text exposition 0.0.4. */
#include "common/metric.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const kind_names[] = {"counter", "gauge", "histogram"};
static const double unit_scale[] = {1, 1e-9, 1e-6};

void lam_metric_observe(struct lam_metric *metric, uint64_t value)
{
    size_t bucket = 0;

    while (bucket < LAM_METRIC_BUCKETS_MAX && metric->bounds[bucket] != 0 &&
           value > metric->bounds[bucket])
        bucket++;
    atomic_fetch_add_explicit(&metric->counts[bucket], 1, memory_order_relaxed);
    lam_metric_add(metric, value);
}

/* Integers stay exact; scaled values keep nine digits. */
static bool write_value(const struct lam_metric *metric, uint64_t value, struct lam_buf *out)
{
    if (metric->unit == LAM_UNIT_PLAIN)
        return lam_buf_printf(out, " %" PRIu64 "\n", value);
    return lam_buf_printf(out, " %.9g\n", (double)value * unit_scale[metric->unit]);
}

static bool write_bucket(
    const struct lam_metric *metric, const char *bound, uint64_t count, struct lam_buf *out)
{
    return lam_buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", metric->name,
        metric->labels ? metric->labels : "", metric->labels ? "," : "", bound, count);
}

/* "{labels}" or nothing. */
static bool write_labels(const struct lam_metric *metric, struct lam_buf *out)
{
    return !metric->labels || lam_buf_printf(out, "{%s}", metric->labels);
}

static bool write_histogram(const struct lam_metric *metric, struct lam_buf *out)
{
    uint64_t total = 0;
    char bound[32];

    for (size_t i = 0; i < LAM_METRIC_BUCKETS_MAX && metric->bounds[i] != 0; i++) {
        total += atomic_load_explicit(&metric->counts[i], memory_order_relaxed);
        snprintf(bound, sizeof bound, "%g", (double)metric->bounds[i] * unit_scale[metric->unit]);
        if (!write_bucket(metric, bound, total, out))
            return false;
    }
    for (size_t i = 0; i <= LAM_METRIC_BUCKETS_MAX; i++)
        if (i == LAM_METRIC_BUCKETS_MAX || metric->bounds[i] == 0) {
            total += atomic_load_explicit(&metric->counts[i], memory_order_relaxed);
            break;
        }
    return write_bucket(metric, "+Inf", total, out) &&
           lam_buf_printf(out, "%s_sum", metric->name) && write_labels(metric, out) &&
           write_value(metric, lam_metric_get(metric), out) &&
           lam_buf_printf(out, "%s_count", metric->name) && write_labels(metric, out) &&
           lam_buf_printf(out, " %" PRIu64 "\n", total);
}

bool lam_metrics_write(const struct lam_metric *const *metrics, size_t n, struct lam_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        const struct lam_metric *metric = metrics[i];
        bool ok = true;

        if (metric->help)
            ok = lam_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", metric->name, metric->help,
                metric->name, kind_names[metric->kind]);
        if (ok && metric->kind == LAM_HISTOGRAM)
            ok = write_histogram(metric, out);
        else if (ok)
            ok = lam_buf_text(out, metric->name) && write_labels(metric, out) &&
                 write_value(metric, lam_metric_get(metric), out);
        if (!ok)
            return false;
    }
    return true;
}
