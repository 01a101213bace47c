/* metrics: see the header. The table below is the list; a row is one series of each model. */
#include "loader/metrics.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/metric.h"

/* In the order in which they are written: rows of one name stand together. */
enum series {
    DISK_BYTES,
    DISK_READS,
    DISK_DEPTH,
    DISK_BUSY,
    DISK_BUSY_RATIO,
    UNITS_LOADED,
    UNITS_GRANTED,
    UNITS_HIT,
    HIT_RATIO,
    UNITS_KEPT,
    UNITS_KEPT_LOADED,
    UNITS_PINNED,
    POOL_USED,
    STALL_DISK,
    STALL_NO_SLOT,
    STALL_WORKER_SLOW,
    STALL_CRC,
    SLOTS_FREE,
    SLOTS_LOADING,
    SLOTS_READY,
    SLOTS_HELD,
    SESSIONS,
    LEASES,
    LEASE_AGE_MAX,
    WORKER_DEATHS,
    CHUNKS_COMPARED,
    CHUNKS_RECORDED,
    CRC_FAILURES,
    N_SERIES,
};

struct row {
    const char *name; /* after "laminar_loader_" */
    const char *help; /* NULL: as the row before */
    const char *label;
    enum lam_metric_kind kind;
    enum lam_metric_unit unit;
};

static const struct row rows[N_SERIES] = {
    [DISK_BYTES] = {"disk_bytes_total", "Bytes read from the drive.", NULL, LAM_COUNTER,
        LAM_UNIT_PLAIN},
    [DISK_READS] = {"disk_reads_total", "Requests to the drive that brought bytes.", NULL,
        LAM_COUNTER, LAM_UNIT_PLAIN},
    [DISK_DEPTH] = {"disk_queue_depth", "Requests under way now.", NULL, LAM_GAUGE, LAM_UNIT_PLAIN},
    [DISK_BUSY] = {"disk_busy_seconds_total", "Time with at least one request under way.", NULL,
        LAM_COUNTER, LAM_UNIT_SECONDS},
    [DISK_BUSY_RATIO] = {"disk_busy_ratio", "The same as a share of the last second.", NULL,
        LAM_GAUGE, LAM_UNIT_RATIO_PPM},
    [UNITS_LOADED] = {"units_loaded_total", "Units read into the pool.", NULL, LAM_COUNTER,
        LAM_UNIT_PLAIN},
    [UNITS_GRANTED] = {"units_granted_total", "Units given to sessions.", NULL, LAM_COUNTER,
        LAM_UNIT_PLAIN},
    [UNITS_HIT] = {"units_hit_total", "Units given that had served before, hence cost no read.",
        NULL, LAM_COUNTER, LAM_UNIT_PLAIN},
    [HIT_RATIO] = {"hit_ratio",
        "Share of the units that sessions use which cost no read; kept ones count in each pass.",
        NULL, LAM_GAUGE, LAM_UNIT_RATIO_PPM},
    [UNITS_KEPT] = {"units_kept", "Units that stay in the pool between passes.", NULL, LAM_GAUGE,
        LAM_UNIT_PLAIN},
    [UNITS_KEPT_LOADED] = {"units_kept_loaded", "Of these, the ones that are there by now.", NULL,
        LAM_GAUGE, LAM_UNIT_PLAIN},
    [UNITS_PINNED] = {"units_pinned", "Units that are kept because somebody asked for it.", NULL,
        LAM_GAUGE, LAM_UNIT_PLAIN},
    [POOL_USED] = {"pool_used_bytes", "Bytes of units that are in the pool now.", NULL, LAM_GAUGE,
        LAM_UNIT_PLAIN},
    [STALL_DISK] = {"stall_seconds_total",
        "Time that sessions have waited, by cause; worker_slow: that the next unit has waited.",
        "cause=\"disk\"", LAM_COUNTER, LAM_UNIT_SECONDS},
    [STALL_NO_SLOT] = {"stall_seconds_total", NULL, "cause=\"no_slot\"", LAM_COUNTER,
        LAM_UNIT_SECONDS},
    [STALL_WORKER_SLOW] = {"stall_seconds_total", NULL, "cause=\"worker_slow\"", LAM_COUNTER,
        LAM_UNIT_SECONDS},
    [STALL_CRC] = {"stall_seconds_total", NULL, "cause=\"crc\"", LAM_COUNTER, LAM_UNIT_SECONDS},
    [SLOTS_FREE] = {"slots", "Transit slots by state.", "state=\"free\"", LAM_GAUGE,
        LAM_UNIT_PLAIN},
    [SLOTS_LOADING] = {"slots", NULL, "state=\"loading\"", LAM_GAUGE, LAM_UNIT_PLAIN},
    [SLOTS_READY] = {"slots", NULL, "state=\"ready\"", LAM_GAUGE, LAM_UNIT_PLAIN},
    [SLOTS_HELD] = {"slots", NULL, "state=\"held\"", LAM_GAUGE, LAM_UNIT_PLAIN},
    [SESSIONS] = {"sessions", "Open sessions of workers.", NULL, LAM_GAUGE, LAM_UNIT_PLAIN},
    [LEASES] = {"leases", "Units held, each session counted.", NULL, LAM_GAUGE, LAM_UNIT_PLAIN},
    [LEASE_AGE_MAX] = {"lease_age_max_seconds",
        "For how long the oldest lease on a transit slot is held; 0: there is none.", NULL,
        LAM_GAUGE, LAM_UNIT_SECONDS},
    [WORKER_DEATHS] = {"worker_deaths_total",
        "Workers that went without ending their session: killed, crashed, or cut off.", NULL,
        LAM_COUNTER, LAM_UNIT_PLAIN},
    [CHUNKS_COMPARED] = {"chunks_compared_total", "Checksums compared with earlier ones.", NULL,
        LAM_COUNTER, LAM_UNIT_PLAIN},
    [CHUNKS_RECORDED] = {"chunks_recorded_total", "Checksums taken at first sight.", NULL,
        LAM_COUNTER, LAM_UNIT_PLAIN},
    [CRC_FAILURES] = {"crc_failures_total", "Checksums that differed: damaged bytes, not used.",
        NULL, LAM_COUNTER, LAM_UNIT_PLAIN},
};

static void collect_disk(const struct lam_share *share, uint64_t *values)
{
    struct lam_meter_counts meter;
    struct lam_reader_info info;

    lam_reader_info(share->reader, &info);
    lam_meter_count(lam_reader_meter(share->reader), lam_now_ns(), &meter);
    values[DISK_BYTES] = info.bytes;
    values[DISK_READS] = info.reads;
    values[DISK_DEPTH] = meter.depth;
    values[DISK_BUSY] = meter.busy_ns;
    values[DISK_BUSY_RATIO] = meter.busy_ppm;
}

/* A session uses each kept unit of its cycle once a pass, though it is told of it once only. */
static uint64_t hit_ppm(const struct lam_slots_counts *counts, const struct lam_layout *layout)
{
    uint64_t misses = counts->transit_grants - counts->transit_hits;

    if (layout->n_units == layout->n_kept)
        return 1000000;
    return counts->steps == 0 ? 0 : 1000000 - misses * 1000000 / counts->steps;
}

static void collect_sessions(const struct lam_share *share, uint64_t *values)
{
    struct lam_slots_counts counts;
    struct lam_sessions_times times;

    lam_sessions_count(share->sessions, &counts);
    lam_sessions_time(share->sessions, &times);
    values[UNITS_LOADED] = counts.loads;
    values[UNITS_GRANTED] = counts.grants;
    values[UNITS_HIT] = counts.hits;
    values[HIT_RATIO] = hit_ppm(&counts, &share->layout);
    values[UNITS_KEPT] = share->layout.n_kept - share->layout.has_table;
    values[UNITS_KEPT_LOADED] = counts.kept_loaded;
    values[UNITS_PINNED] = counts.pinned;
    values[POOL_USED] = counts.ready_bytes;
    values[STALL_DISK] = times.waited_ns[LAM_SLOTS_WAIT_DISK];
    values[STALL_NO_SLOT] = times.waited_ns[LAM_SLOTS_WAIT_SLOT];
    values[STALL_WORKER_SLOW] = times.waited_ns[LAM_SLOTS_WAIT_WORKER];
    values[STALL_CRC] = times.waited_ns[LAM_SLOTS_WAIT_CRC];
    values[SLOTS_FREE] = counts.slots_free;
    values[SLOTS_LOADING] = counts.slots_loading;
    values[SLOTS_READY] = counts.slots_ready;
    values[SLOTS_HELD] = counts.slots_held;
    values[SESSIONS] = counts.sessions;
    values[LEASES] = counts.leases;
    values[LEASE_AGE_MAX] = times.lease_oldest_ns;
    values[WORKER_DEATHS] = times.deaths;
}

static void collect_checks(const struct lam_share *share, uint64_t *values)
{
    struct lam_integrity_counts checks = {0};

    if (share->integrity != NULL)
        lam_integrity_count(share->integrity, &checks);
    values[CHUNKS_COMPARED] = checks.compared;
    values[CHUNKS_RECORDED] = checks.recorded;
    values[CRC_FAILURES] = checks.crc_failures;
}

/* One value of model i (from 0). */
static bool write_value(enum series series, uint32_t i, uint64_t value, struct lam_buf *out)
{
    const struct row *row = &rows[series];
    char name[64], labels[64];
    struct lam_metric metric = {.name = name,
        .help = i == 0 ? row->help : NULL,
        .labels = labels,
        .kind = row->kind,
        .unit = row->unit,
        .value = value};
    const struct lam_metric *const metrics[] = {&metric};

    snprintf(name, sizeof(name), "laminar_loader_%s", row->name);
    snprintf(labels, sizeof(labels), "model=\"%" PRIu32 "\"%s%s", i + 1, row->label ? "," : "",
        row->label ? row->label : "");
    return lam_metrics_write(metrics, 1, out);
}

/* A copy, since the label and the help depend on the model's place in the list. */
static bool write_histogram(const struct lam_metric *live, uint32_t i, struct lam_buf *out)
{
    char labels[32];
    struct lam_metric metric = {.name = live->name,
        .help = i == 0 ? live->help : NULL,
        .labels = labels,
        .kind = live->kind,
        .unit = live->unit,
        .value = lam_metric_get(live)};
    const struct lam_metric *const metrics[] = {&metric};

    snprintf(labels, sizeof(labels), "model=\"%" PRIu32 "\"", i + 1);
    for (size_t b = 0; b < LAM_METRIC_BUCKETS_MAX; b++)
        metric.bounds[b] = live->bounds[b];
    for (size_t b = 0; b <= LAM_METRIC_BUCKETS_MAX; b++)
        metric.counts[b] = atomic_load_explicit(&live->counts[b], memory_order_relaxed);
    return lam_metrics_write(metrics, 1, out);
}

/* Text for a label's value: quotes, backslashes and line breaks are escaped. */
static bool write_escaped(const char *text, struct lam_buf *out)
{
    bool ok = true;

    for (; *text != '\0' && ok; text++) {
        if (*text == '\n')
            ok = lam_buf_text(out, "\\n");
        else
            ok = (*text != '"' && *text != '\\' ? true : lam_buf_text(out, "\\")) &&
                 lam_buf_append(out, text, 1);
    }
    return ok;
}

static bool write_info(struct lam_models *models, const struct lam_pool *pool, struct lam_buf *out)
{
    bool ok = lam_buf_printf(out,
        "# HELP laminar_loader_pool_bytes Size of the shared memory.\n"
        "# TYPE laminar_loader_pool_bytes gauge\nlaminar_loader_pool_bytes %" PRIu64 "\n"
        "# HELP laminar_loader_pool_ready_bytes Of it, what the machine has given so far.\n"
        "# TYPE laminar_loader_pool_ready_bytes gauge\nlaminar_loader_pool_ready_bytes %" PRIu64
        "\n"
        "# HELP laminar_loader_pool_ready_seconds How long that took.\n"
        "# TYPE laminar_loader_pool_ready_seconds gauge\nlaminar_loader_pool_ready_seconds %.6f\n"
        "# HELP laminar_loader_backend_info How each model is read; always 1.\n"
        "# TYPE laminar_loader_backend_info gauge\n",
        pool->bytes, (uint64_t)atomic_load(&pool->ready_bytes),
        (double)atomic_load(&pool->ready_ns) / (double)LAM_NS_PER_S);

    for (uint32_t i = 0; i < models->n_shares && ok; i++) {
        struct lam_reader_info info;

        lam_reader_info(models->shares[i].reader, &info);
        ok = lam_buf_printf(
                 out, "laminar_loader_backend_info{model=\"%" PRIu32 "\",path=\"", i + 1) &&
             write_escaped(models->shares[i].file.path, out) &&
             lam_buf_printf(out,
                 "\",engine=\"%s\",direct=\"%s\",fixed_buffers=\"%s\",pages=\"%s\"} 1\n",
                 info.engine, info.direct ? "true" : "false", info.fixed_buffers ? "true" : "false",
                 pool->pages);
    }
    return ok;
}

bool lam_loader_metrics_write(
    struct lam_models *models, const struct lam_pool *pool, struct lam_buf *out)
{
    uint64_t values[LAM_MODELS_MAX][N_SERIES];
    bool ok = write_info(models, pool, out);
    enum series first = 0;

    for (uint32_t i = 0; i < models->n_shares; i++) {
        collect_disk(&models->shares[i], values[i]);
        collect_sessions(&models->shares[i], values[i]);
        collect_checks(&models->shares[i], values[i]);
    }
    for (uint32_t i = 0; i < models->n_shares && ok; i++)
        ok = write_histogram(&lam_reader_meter(models->shares[i].reader)->latency, i, out);
    for (uint32_t i = 0; i < models->n_shares && ok; i++)
        ok = write_histogram(lam_sessions_unit_seconds(models->shares[i].sessions), i, out);
    /* All rows of a name, of all models, then the next name. */
    while (first < N_SERIES && ok) {
        enum series end = first + 1;

        while (end < N_SERIES && rows[end].help == NULL)
            end++;
        for (uint32_t i = 0; i < models->n_shares && ok; i++) {
            for (enum series s = first; s < end && ok; s++)
                ok = write_value(s, i, values[i][s], out);
        }
        first = end;
    }
    return ok;
}
