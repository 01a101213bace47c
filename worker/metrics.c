/* metrics: see metrics.h. */
#include "worker/metrics.h"

#include "common/clock.h"

#define MS LAM_NS_PER_MS
#define PPM 1000000u

#define NAME(suffix) "laminar_worker_" suffix

static const struct lam_metric table[LAM_WORKER_METRICS] = {
    [LAM_WORKER_ATTACHED] = {.name = NAME("attached"),
        .help = "1 while attached to the gateway.",
        .kind = LAM_GAUGE},
    [LAM_WORKER_PASSES] = {.name = NAME("passes_total"), .help = "Passes through the model."},
    [LAM_WORKER_ROWS] = {.name = NAME("rows_total"), .help = "Rows of those passes."},
    [LAM_WORKER_TOKENS] = {.name = NAME("tokens_total"), .help = "Tokens that were chosen."},
    [LAM_WORKER_PASS_SECONDS] = {.name = NAME("pass_seconds"),
        .help = "Time of a pass, to logits on the host.",
        .kind = LAM_HISTOGRAM,
        .unit = LAM_UNIT_SECONDS,
        .bounds = {2 * MS, 5 * MS, 10 * MS, 20 * MS, 50 * MS, 100 * MS, 200 * MS, 300 * MS,
            500 * MS, 700 * MS, 1000 * MS, 2000 * MS, 5000 * MS, 10000 * MS, 20000 * MS,
            50000 * MS}},
    [LAM_WORKER_WAIT_DISK] = {.name = NAME("wait_seconds_total"),
        .help = "Time that the arithmetic waited for weights, by cause: disk, units that the "
                "loader did not have yet; link, copies to the device.",
        .labels = "cause=\"disk\"",
        .unit = LAM_UNIT_SECONDS},
    [LAM_WORKER_WAIT_LINK] = {.name = NAME("wait_seconds_total"),
        .labels = "cause=\"link\"",
        .unit = LAM_UNIT_SECONDS},
    [LAM_WORKER_COMPUTE] = {.name = NAME("compute_seconds_total"),
        .help = "The rest of the time of passes.",
        .unit = LAM_UNIT_SECONDS},
    [LAM_WORKER_COPY] = {.name = NAME("copy_seconds_total"),
        .help = "Time that copies of weights took, beside the arithmetic.",
        .unit = LAM_UNIT_SECONDS},
    [LAM_WORKER_FLOOR] = {.name = NAME("floor_seconds_total"),
        .help = "What those passes would have taken by the plan.",
        .unit = LAM_UNIT_SECONDS},
    [LAM_WORKER_FLOOR_RATIO] = {.name = NAME("floor_ratio"),
        .help = "The plan's time of the last pass as a share of its own.",
        .kind = LAM_GAUGE,
        .unit = LAM_UNIT_RATIO_PPM},
    [LAM_WORKER_BYTES_LINK] = {.name = NAME("weight_bytes_total"),
        .help = "Bytes of weights that passes used, by where they came from: link, copied to the "
                "device; resident, read where they stay.",
        .labels = "tier=\"link\""},
    [LAM_WORKER_BYTES_RESIDENT] = {.name = NAME("weight_bytes_total"),
        .labels = "tier=\"resident\""},
    [LAM_WORKER_MEMORY_CAP] = {.name = NAME("memory_bytes"),
        .help = "Memory of the device: cap, what may be taken (CPU: 0, no limit); planned; "
                "measured, what the process holds (0: the device cannot say).",
        .labels = "kind=\"cap\"",
        .kind = LAM_GAUGE},
    [LAM_WORKER_MEMORY_PLANNED] = {.name = NAME("memory_bytes"),
        .labels = "kind=\"planned\"",
        .kind = LAM_GAUGE},
    [LAM_WORKER_MEMORY_MEASURED] = {.name = NAME("memory_bytes"),
        .labels = "kind=\"measured\"",
        .kind = LAM_GAUGE},
    [LAM_WORKER_KV_PAGES] = {.name = NAME("kv_pages"),
        .help = "Pages of the KV cache.",
        .kind = LAM_GAUGE},
    [LAM_WORKER_KV_PAGES_USED] = {.name = NAME("kv_pages_used"),
        .help = "Of these, the ones that hold positions of sequences.",
        .kind = LAM_GAUGE},
};

static void set(struct lam_worker_metrics *metrics, enum lam_worker_metric metric, uint64_t value)
{
    lam_metric_set(&metrics->items[metric], value);
}

static void add(struct lam_worker_metrics *metrics, enum lam_worker_metric metric, uint64_t value)
{
    lam_metric_add(&metrics->items[metric], value);
}

void lam_worker_metrics_init(struct lam_worker_metrics *metrics, const struct lam_engine *engine)
{
    for (size_t i = 0; i < LAM_WORKER_METRICS; i++)
        metrics->items[i] = table[i];
    set(metrics, LAM_WORKER_MEMORY_CAP, lam_engine_cap_bytes(engine));
    set(metrics, LAM_WORKER_MEMORY_PLANNED, lam_engine_plan(engine)->arenas[0].total_bytes);
    set(metrics, LAM_WORKER_KV_PAGES, lam_engine_config(engine)->kv_pages);
    set(metrics, LAM_WORKER_MEMORY_MEASURED, lam_engine_device_bytes(engine));
}

void lam_worker_metrics_attached(struct lam_worker_metrics *metrics, bool attached)
{
    set(metrics, LAM_WORKER_ATTACHED, attached);
}

static void add_pass(struct lam_worker_metrics *metrics, const struct lam_pass_profile *pass)
{
    add(metrics, LAM_WORKER_PASSES, 1);
    add(metrics, LAM_WORKER_ROWS, pass->n_rows);
    lam_metric_observe(&metrics->items[LAM_WORKER_PASS_SECONDS], pass->wall_ns);
    add(metrics, LAM_WORKER_WAIT_DISK, pass->disk_wait_ns);
    add(metrics, LAM_WORKER_WAIT_LINK, pass->link_wait_ns);
    add(metrics, LAM_WORKER_COMPUTE, pass->compute_ns);
    add(metrics, LAM_WORKER_COPY, pass->copy_ns);
    add(metrics, LAM_WORKER_FLOOR, pass->floor_ns);
    if (pass->wall_ns > 0)
        set(metrics, LAM_WORKER_FLOOR_RATIO,
            (uint64_t)((double)pass->floor_ns / (double)pass->wall_ns * PPM));
    add(metrics, LAM_WORKER_BYTES_LINK, pass->link_bytes);
    add(metrics, LAM_WORKER_BYTES_RESIDENT, pass->resident_bytes);
}

void lam_worker_metrics_step(struct lam_worker_metrics *metrics, const struct lam_engine *engine,
    bool has_pass, size_t n_tokens)
{
    if (has_pass)
        add_pass(metrics, lam_engine_profile(engine));
    add(metrics, LAM_WORKER_TOKENS, n_tokens);
    set(metrics, LAM_WORKER_KV_PAGES_USED, lam_engine_kv_pages_used(engine));
}

void lam_worker_metrics_held(struct lam_worker_metrics *metrics, uint64_t bytes)
{
    set(metrics, LAM_WORKER_MEMORY_MEASURED, bytes);
}

bool lam_worker_metrics_write(void *arg, struct lam_buf *out)
{
    const struct lam_worker_metrics *metrics = arg;
    const struct lam_metric *items[LAM_WORKER_METRICS];

    for (size_t i = 0; i < LAM_WORKER_METRICS; i++)
        items[i] = &metrics->items[i];
    return lam_metrics_write(items, LAM_WORKER_METRICS, out);
}

const char *lam_worker_metrics_unhealthy(void *arg)
{
    const struct lam_worker_metrics *metrics = arg;
    bool attached = lam_metric_get(&metrics->items[LAM_WORKER_ATTACHED]) != 0;

    return attached ? NULL : "not attached to a gateway\n";
}
