/* plan_report: see plan_report.h. */
#include "cli/plan_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/json.h"
#include "common/size.h"

#define SMALL_CAP_BYTES (16 * LAM_GIB)

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

/* A name of a stranger's file must not steer a terminal. */
static void print_clean(FILE *out, const char *text)
{
    for (; *text; text++)
        fputc((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text, out);
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
    char total[24];

    fprintf(out, "model    ");
    print_clean(out, spec->name[0] ? spec->name : spec->architecture);
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

static void print_cell(FILE *out, bool small, uint64_t bytes)
{
    if (small)
        fprintf(out, " %8.1f", (double)bytes / (double)LAM_MIB);
    else
        fprintf(out, " %8.2f", (double)bytes / (double)LAM_GIB);
}

/* One line per device. */
static void print_devices(const struct lam_plan_report *report)
{
    FILE *out = report->out;
    const struct lam_plan *plan = report->plan;
    bool small = is_small(report);

    fprintf(out, "%-8s %8s %8s %8s %8s %8s %8s %8s %8s %7s %9s %9s %9s%s\n", small ? "MiB" : "GiB",
        "cap", "context", "resident", "slots", "KV", "activat.", "workspc.",
        plan->fits ? "free" : "missing", "layers", "resident", "streamed", "GB/pass",
        report->measured.device_bytes > 0 ? " measured" : "");
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
        if (plan->fits)
            fprintf(out, " %9" PRIu32 " %9" PRIu32 " %9.2f", arena->n_layers_resident,
                arena->n_layers - arena->n_layers_resident, (double)arena->streamed_bytes / 1e9);
        if (report->measured.device_bytes > 0)
            print_cell(out, small, report->measured.device_bytes);
        fprintf(out, "\n");
    }
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

enum lam_status lam_plan_report_json(const struct lam_plan_report *report, struct lam_err *err)
{
    const struct lam_plan *plan = report->plan;
    json_t *root = lam_json_begin();
    json_t *devices = json_array();
    json_t *levers = json_array();

    for (uint32_t d = 0; d < plan->n_devices; d++)
        json_array_append_new(devices, json_device(report, d));
    for (uint32_t i = 0; i < plan->n_levers; i++)
        json_array_append_new(levers, json_pack("{s:s,s:I}", "flag", plan->levers[i].flag,
                                          "saves_bytes", (json_int_t)plan->levers[i].saves_bytes));
    json_object_set_new(root, "fits", json_boolean(plan->fits));
    json_object_set_new(root, "devices", devices);
    json_object_set_new(root, "host",
        json_pack("{s:I,s:I,s:I,s:I}", "pool_bytes", (json_int_t)plan->pool.pool_bytes,
            "kept_units", (json_int_t)plan->pool.n_kept, "units", (json_int_t)plan->n_units,
            "disk_bytes_per_pass", (json_int_t)plan->pool.disk_bytes));
    json_object_set_new(root, "predicted",
        plan->fits
            ? json_pack("{s:f,s:f,s:s}", "pass_seconds", plan->pass_seconds, "tokens_per_second",
                  plan->tokens_per_second, "bound", bound_name(plan->bound))
            : json_null());
    json_object_set_new(root, "levers", levers);
    return lam_json_print(root, err);
}
