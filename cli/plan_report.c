/* plan_report: see plan_report.h. */
#include "cli/plan_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "common/size.h"

#define SMALL_CAP_BYTES (16 * LAM_GIB)
#define SMALL_PASS_BYTES ((uint64_t)1000 * 1000 * 1000)

/* The parts of a device's total: they add up to it. */
struct parts {
    uint64_t context;
    uint64_t resident; /* with the embedding */
    uint64_t slots;
    uint64_t kv;
    uint64_t activations; /* with logits and tables */
    uint64_t workspace;   /* with what the arena is rounded up by */
    uint64_t total;
    uint64_t cap;
};

static bool is_cpu(const struct lam_plan_request *request)
{
    return request->devices[0].kind == LAM_DEVICE_CPU;
}

static struct parts parts_of(const struct lam_plan_report *report, uint32_t d)
{
    const struct lam_plan_arena *arena = &report->plan->arenas[d];
    struct parts parts = {
        .context = arena->context_bytes,
        .resident =
            arena->regions[LAM_REGION_RESIDENT].bytes + arena->regions[LAM_REGION_EMBEDDING].bytes,
        .slots = arena->regions[LAM_REGION_SLOTS].bytes,
        .kv = arena->regions[LAM_REGION_KV].bytes,
        .activations = arena->regions[LAM_REGION_ACTIVATIONS].bytes +
                       arena->regions[LAM_REGION_LOGITS].bytes +
                       arena->regions[LAM_REGION_TABLES].bytes,
        .total = arena->total_bytes,
        .cap = report->request->devices[d].cap_bytes,
    };

    if (is_cpu(report->request))
        parts.cap = report->request->host.ram_bytes;
    parts.workspace =
        parts.total - parts.context - parts.resident - parts.slots - parts.kv - parts.activations;
    return parts;
}

static const char *kv_name(enum lam_dtype dtype)
{
    if (dtype == LAM_F16)
        return "f16";
    return dtype == LAM_F32 ? "f32" : "q8_0";
}

static void print_head(const struct lam_plan_report *report)
{
    FILE *out = report->out;
    const struct lam_spec *spec = report->request->spec;
    const struct lam_plan *plan = report->plan;
    const char *name = spec->name[0] ? spec->name : spec->architecture;
    char total[24];

    fprintf(out, "model    ");
    lam_command_print_clean(out, name, strlen(name));
    fprintf(out, ": %" PRIu32 " layers, %s a pass\n", spec->n_layers,
        lam_size_format(report->request->manifest->unit_bytes_total, total, sizeof total));
    fprintf(out,
        "request  context %" PRIu32 ", batch %" PRIu32 ", prompts in chunks of %" PRIu32
        ", KV in %s\n\n",
        plan->n_ctx, plan->n_seqs, plan->prefill_chunk, kv_name(plan->kv_dtype));
}

/* Small caps are told in MiB. */
static bool is_small(const struct lam_plan_report *report)
{
    uint64_t cap = is_cpu(report->request) ? report->request->host.ram_bytes : 0;

    for (uint32_t d = 0; d < report->request->n_devices; d++)
        if (report->request->devices[d].cap_bytes > cap)
            cap = report->request->devices[d].cap_bytes;
    return cap < SMALL_CAP_BYTES;
}

/* What crosses the link is told in MB of models that would be nothing in GB. */
static bool is_small_pass(const struct lam_plan_report *report)
{
    return report->request->manifest->unit_bytes_total < SMALL_PASS_BYTES;
}

static void print_streamed(const struct lam_plan_report *report, double bytes)
{
    fprintf(report->out, " %9.2f", bytes / (is_small_pass(report) ? 1e6 : 1e9));
}

static void print_cell(FILE *out, bool small, uint64_t bytes)
{
    if (small)
        fprintf(out, " %8.1f", (double)bytes / (double)LAM_MIB);
    else
        fprintf(out, " %8.2f", (double)bytes / (double)LAM_GIB);
}

/* A cell of what may not have been measured. */
static void print_found(FILE *out, bool small, bool known, uint64_t bytes)
{
    if (known)
        print_cell(out, small, bytes);
    else
        fprintf(out, " %8s", "-");
}

/* The line under a device, in its columns. */
static void print_measured(const struct lam_plan_report *report, bool small)
{
    FILE *out = report->out;
    const struct lam_plan_measured *found = &report->measured;
    uint64_t cap = parts_of(report, 0).cap;
    bool held = found->total_bytes > 0;
    bool by_kind = held && !is_cpu(report->request);

    fprintf(out, "%-8s %8s", "measured", "");
    print_found(out, small, held, found->total_bytes);
    print_found(out, small, by_kind, found->context_bytes);
    print_found(out, small, by_kind, found->resident_bytes);
    print_found(out, small, by_kind, found->slots_bytes);
    print_found(out, small, by_kind, found->kv_bytes);
    print_found(out, small, by_kind, found->activations_bytes);
    print_found(out, small, by_kind, found->workspace_bytes);
    print_found(out, small, held, cap > found->total_bytes ? cap - found->total_bytes : 0);
    fprintf(out, " %7s", "");
    if (by_kind)
        fprintf(out, " %9" PRIu32 " %9" PRIu32, found->layers_resident,
            report->plan->n_layers - found->layers_resident);
    else
        fprintf(out, " %9s %9s", "-", "-");
    if (found->streamed_bytes >= 0)
        print_streamed(report, found->streamed_bytes);
    else
        fprintf(out, " %9s", "-");
    fprintf(out, "\n");
}

/* One line per device. */
static void print_devices(const struct lam_plan_report *report)
{
    FILE *out = report->out;
    const struct lam_plan *plan = report->plan;
    bool small = is_small(report);

    fprintf(out, "%-8s %8s %8s %8s %8s %8s %8s %8s %8s %8s %7s %9s %9s %9s\n",
        small ? "MiB" : "GiB", "cap", "total", "context", "resident", "slots", "KV", "activat.",
        "workspc.", plan->fits ? "free" : "missing", "layers", "resident", "streamed",
        is_small_pass(report) ? "MB/pass" : "GB/pass");
    for (uint32_t d = 0; d < plan->n_devices; d++) {
        const struct lam_plan_arena *arena = &plan->arenas[d];
        struct parts parts = parts_of(report, d);
        uint64_t pool = is_cpu(report->request) ? plan->pool.pool_bytes : 0;
        uint64_t used = plan->fits ? parts.total + pool : arena->minimum_bytes;
        fprintf(out, "%-8s", report->request->devices[d].name);
        if (!arena->used) {
            fprintf(out, " not used\n");
            continue;
        }
        print_cell(out, small, parts.cap);
        print_cell(out, small, used);
        print_cell(out, small, parts.context);
        print_cell(out, small, parts.resident);
        print_cell(out, small, parts.slots);
        print_cell(out, small, parts.kv);
        print_cell(out, small, parts.activations);
        print_cell(out, small, parts.workspace);
        print_cell(out, small,
            used > parts.cap ? used - parts.cap
            : plan->fits     ? parts.cap - used
                             : 0);
        fprintf(out, " %7" PRIu32, arena->n_layers);
        if (plan->fits) {
            fprintf(out, " %9" PRIu32 " %9" PRIu32, arena->n_layers_resident,
                arena->n_layers - arena->n_layers_resident);
            print_streamed(report, (double)arena->streamed_bytes);
        }
        fprintf(out, "\n");
    }
    if (report->measured.known)
        print_measured(report, small);
}

static void print_pool(const struct lam_plan_report *report)
{
    FILE *out = report->out;
    const struct lam_plan_pool *pool = &report->plan->pool;
    char took[24];
    char disk[24];

    fprintf(out, "\nRAM      pool %s: %" PRIu32 " of %" PRIu32 " units kept",
        lam_size_format(pool->pool_bytes, took, sizeof took), pool->n_kept, report->plan->n_units);
    if (pool->disk_bytes > 0)
        fprintf(out, ", %s from disk in a pass\n",
            lam_size_format(pool->disk_bytes, disk, sizeof disk));
    else
        fprintf(out, ", nothing from disk after the start\n");
    if (pool->table_bytes > 0)
        fprintf(out, "         the embedding, %s, is kept as well\n",
            lam_size_format(pool->table_bytes, took, sizeof took));
    if (report->measured.known) {
        fprintf(out, "         measured: %s in use",
            lam_size_format(report->measured.pool_bytes, took, sizeof took));
        if (report->measured.disk_bytes >= 0)
            fprintf(out, ", %s from disk in a pass",
                lam_size_format((uint64_t)report->measured.disk_bytes, disk, sizeof disk));
        fprintf(out, "\n");
    }
    for (uint32_t d = 0; d < report->plan->n_devices; d++)
        if (report->plan->arenas[d].regions[LAM_REGION_EMBEDDING].bytes > 0)
            fprintf(out, "         the embedding, %s, is resident on %s as well\n",
                lam_size_format(
                    report->plan->arenas[d].regions[LAM_REGION_EMBEDDING].bytes, took, sizeof took),
                report->request->devices[d].name);
}

static const char *bound_name(enum lam_bound bound)
{
    switch (bound) {
    case LAM_BOUND_LINK:
        return "link";
    case LAM_BOUND_DISK:
        return "disk";
    case LAM_BOUND_HOST_MEMORY:
        return "memory";
    case LAM_BOUND_COMPUTE:
        break;
    }
    return "compute";
}

static void print_gain(FILE *out, const char *what, double seconds, double before)
{
    if (seconds > 0 && seconds < before)
        fprintf(out, "         1 GiB more %s: %.4f s, %.1f %% less\n", what, seconds,
            (1 - seconds / before) * 100);
    else if (seconds > 0)
        fprintf(out, "         1 GiB more %s: no faster\n", what);
}

static void print_times(const struct lam_plan_report *report)
{
    FILE *out = report->out;
    const struct lam_plan *plan = report->plan;

    fprintf(out, "pass     %.4f s, %.2f tokens/s; bound by ", plan->pass_seconds,
        plan->tokens_per_second);
    if (plan->bound == LAM_BOUND_LINK)
        fprintf(out, "the link of %s\n", report->request->devices[plan->bound_device].name);
    else if (plan->bound == LAM_BOUND_HOST_MEMORY)
        fprintf(out, "host memory, which all links read\n");
    else
        fprintf(out, "%s\n", plan->bound == LAM_BOUND_DISK ? "the disk" : "computing");
    if (report->measured.pass_seconds > 0)
        fprintf(out, "         measured %.4f s, %.2f of the forecast\n",
            report->measured.pass_seconds, report->measured.pass_seconds / plan->pass_seconds);
    if (plan->dealt)
        fprintf(out, "         layers are dealt over the devices, so that all links run at once\n");
    print_gain(out, "of VRAM on each device", report->gain.vram_seconds, plan->pass_seconds);
    print_gain(out, "of RAM", report->gain.ram_seconds, plan->pass_seconds);
    if (report->gain.n_ctx > 0)
        fprintf(out, "         --ctx %" PRIu32 ", which was not given: %.4f s, %.1f %% less\n",
            report->gain.n_ctx, report->gain.ctx_seconds,
            (1 - report->gain.ctx_seconds / plan->pass_seconds) * 100);
}

static void print_levers(FILE *out, const struct lam_plan *plan)
{
    char size[24];

    fprintf(out, "\nwhat would help\n");
    for (uint32_t i = 0; i < plan->n_levers; i++)
        fprintf(out, "  %-28s saves %s%s\n", plan->levers[i].flag,
            lam_size_format(plan->levers[i].saves_bytes, size, sizeof size),
            plan->levers[i].fits ? ": enough" : "");
}

void lam_plan_report_text(const struct lam_plan_report *report)
{
    const struct lam_plan *plan = report->plan;

    print_head(report);
    print_devices(report);
    if (plan->fits) {
        print_pool(report);
        print_times(report);
    } else {
        print_levers(report->out, plan);
    }
    if (*report->sources)
        fprintf(report->out, "facts    %s\n", report->sources);
}

static json_t *json_device(const struct lam_plan_report *report, uint32_t d)
{
    const struct lam_plan_arena *arena = &report->plan->arenas[d];
    struct parts parts = parts_of(report, d);

    return json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "device",
        report->request->devices[d].name, "cap_bytes", (json_int_t)parts.cap, "context_bytes",
        (json_int_t)parts.context, "resident_bytes", (json_int_t)parts.resident, "slots_bytes",
        (json_int_t)parts.slots, "kv_bytes", (json_int_t)parts.kv, "activations_bytes",
        (json_int_t)parts.activations, "workspace_bytes", (json_int_t)parts.workspace,
        "total_bytes", (json_int_t)parts.total, "layers", (json_int_t)arena->n_layers,
        "layers_resident", (json_int_t)arena->n_layers_resident, "layers_streamed",
        (json_int_t)(arena->n_layers - arena->n_layers_resident), "streamed_bytes_per_pass",
        (json_int_t)arena->streamed_bytes, "embedding_bytes",
        (json_int_t)arena->regions[LAM_REGION_EMBEDDING].bytes);
}

static json_t *number_or_null(double value)
{
    return value >= 0 ? json_real(value) : json_null();
}

static json_t *count_or_null(double value)
{
    return value >= 0 ? json_integer((json_int_t)value) : json_null();
}

static json_t *bytes_or_null(bool known, uint64_t bytes)
{
    return known ? json_integer((json_int_t)bytes) : json_null();
}

static json_t *json_measured(const struct lam_plan_report *report)
{
    const struct lam_plan_measured *found = &report->measured;
    bool held = found->total_bytes > 0;
    bool by_kind = held && !is_cpu(report->request);
    double rate = found->pass_seconds > 0 ? report->plan->n_seqs / found->pass_seconds : -1;
    json_t *device = json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "device",
        report->request->devices[0].name, "context_bytes",
        bytes_or_null(by_kind, found->context_bytes), "resident_bytes",
        bytes_or_null(by_kind, found->resident_bytes), "slots_bytes",
        bytes_or_null(by_kind, found->slots_bytes), "kv_bytes",
        bytes_or_null(by_kind, found->kv_bytes), "activations_bytes",
        bytes_or_null(by_kind, found->activations_bytes), "workspace_bytes",
        bytes_or_null(by_kind, found->workspace_bytes), "total_bytes",
        bytes_or_null(held, found->total_bytes), "layers_resident",
        bytes_or_null(by_kind, found->layers_resident), "streamed_bytes_per_pass",
        count_or_null(found->streamed_bytes));

    return json_pack("{s:[o],s:{s:I,s:o},s:o,s:o}", "devices", device, "host", "pool_bytes",
        (json_int_t)found->pool_bytes, "disk_bytes_per_pass", count_or_null(found->disk_bytes),
        "pass_seconds", number_or_null(found->pass_seconds > 0 ? found->pass_seconds : -1),
        "tokens_per_second", number_or_null(rate));
}

void lam_plan_report_line(const struct lam_plan_report *report)
{
    const struct lam_plan_measured *found = &report->measured;
    const struct lam_plan *plan = report->plan;
    uint64_t planned =
        parts_of(report, 0).total + (is_cpu(report->request) ? plan->pool.pool_bytes : 0);
    char held[24], cap[24], total[24];

    if (!found->known || found->total_bytes == 0)
        return;
    fprintf(report->out, "laminar: %s held %s of %s, planned %s", report->request->devices[0].name,
        lam_size_format(found->total_bytes, held, sizeof held),
        lam_size_format(parts_of(report, 0).cap, cap, sizeof cap),
        lam_size_format(planned, total, sizeof total));
    if (found->pass_seconds > 0)
        fprintf(report->out, "; a pass took %.4f s, planned %.4f", found->pass_seconds,
            plan->pass_seconds);
    fprintf(report->out, "\n");
}

void lam_plan_report_json(const struct lam_plan_report *report, json_t *object)
{
    const struct lam_plan *plan = report->plan;
    json_t *devices = json_array();
    json_t *levers = json_array();

    for (uint32_t d = 0; d < plan->n_devices; d++)
        json_array_append_new(devices, json_device(report, d));
    for (uint32_t i = 0; i < plan->n_levers; i++)
        json_array_append_new(levers, json_pack("{s:s,s:I}", "flag", plan->levers[i].flag,
                                          "saves_bytes", (json_int_t)plan->levers[i].saves_bytes));
    json_object_set_new(object, "fits", json_boolean(plan->fits));
    json_object_set_new(object, "devices", devices);
    json_object_set_new(object, "host",
        json_pack("{s:I,s:I,s:I,s:I,s:I}", "pool_bytes", (json_int_t)plan->pool.pool_bytes,
            "kept_units", (json_int_t)plan->pool.n_kept, "units", (json_int_t)plan->n_units,
            "embedding_bytes", (json_int_t)plan->pool.table_bytes, "disk_bytes_per_pass",
            (json_int_t)plan->pool.disk_bytes));
    json_object_set_new(object, "predicted",
        plan->fits
            ? json_pack("{s:f,s:f,s:s}", "pass_seconds", plan->pass_seconds, "tokens_per_second",
                  plan->tokens_per_second, "bound", bound_name(plan->bound))
            : json_null());
    json_object_set_new(object, "levers", levers);
    if (report->measured.known)
        json_object_set_new(object, "measured", json_measured(report));
}
