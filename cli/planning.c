/* planning: see planning.h. */
#include "cli/planning.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "common/mem.h"
#include "common/processors.h"
#include "common/size.h"
#include "loader/drives.h"
#include "loader/memory.h"
#include "model/assumed.h"

/* Where nobody measured what a process holds on a GPU before its arena. */
#define GPU_CONTEXT_BYTES (512 * LAM_MIB)

/* What a shorter context would gain is told from a tenth of a pass on. */
#define CTX_GAIN_MIN 0.9
#define CTX_LEAST 512u

/* Loader and worker without pool and arena, as docs/perf/notebook.md has it: code and libraries of
 * both, the stacks and heaps of gRPC's threads, the model's header and its tables in both. */
#define CPU_CONTEXT_BASE_BYTES (40 * LAM_MIB)
#define CPU_CONTEXT_THREAD_BYTES (LAM_MIB / 2)
#define CPU_CONTEXT_HEADERS 4u

struct lam_plan_options lam_plan_options_defaults(void)
{
    return (struct lam_plan_options){
        .device = "auto", .ram = "auto", .layer_batch = "auto", .objective = "latency"};
}

void lam_plan_options_add_flags(struct lam_plan_options *options, struct lam_flag *flags)
{
    const struct lam_flag table[LAM_PLAN_FLAGS] = {
        {"device", 0, LAM_FLAG_TEXT, &options->device, "NAME",
            "Where to compute: cpu, cuda:0, or auto: the first GPU if there is one.", 0, 0, NULL,
            NULL},
        {"vram", 0, LAM_FLAG_TEXT, &options->vram, "SPEC[,SPEC..]",
            "All that may be held on a GPU, context included: 3GiB, 75%, free-1GiB, auto (what "
            "is free, less 512 MiB or 3 %), off; 0=3GiB,2=75%; 3,3,... repeats. Without it, auto.",
            0, 0, NULL, NULL},
        {"ram", 0, LAM_FLAG_TEXT, &options->ram, "SIZE",
            "With a GPU, memory for weights; without, for everything that loader and worker hold: "
            "3GiB, 75%, free-1GiB, auto (three quarters of what is available). Smaller than the "
            "model: it streams from the disk.",
            0, 0, NULL, NULL},
        {"ctx", 0, LAM_FLAG_INT, &options->n_ctx, "N",
            "Tokens of a sequence; 0: what the model was trained for, at most 8192, or less if "
            "that does not fit.",
            0, 1 << 24, NULL, NULL},
        {"batch", 0, LAM_FLAG_INT, &options->n_seqs, "N",
            "Sequences that share passes; 0: the command's own (serve: 8, else 1), or what "
            "--objective makes of it.",
            0, 1024, NULL, NULL},
        {"prefill-chunk", 0, LAM_FLAG_INT, &options->prefill_chunk, "N",
            "Rows of one pass of a prompt; 0: 512, on a CPU 256.", 0, 8192, NULL, NULL},
        {"kv-type", 0, LAM_FLAG_CHOICE, &options->kv_type, "TYPE",
            "Numbers of the KV cache; without it f16, or what fits.", 0, 0, "f16|f32|q8_0", NULL},
        {"layer-batch", 0, LAM_FLAG_TEXT, &options->layer_batch, "N|auto",
            "Consecutive layers in a slot of a GPU, or in one request to the loader.", 0, 0, NULL,
            NULL},
        {"objective", 0, LAM_FLAG_CHOICE, &options->objective, "WHAT",
            "What memory is for: resident weights, or more sequences at a time.", 0, 0,
            "latency|throughput", NULL},
        lam_shard_flag(&options->shards),
    };

    memcpy(flags, table, sizeof table);
}

void lam_planning_done(struct lam_planning *planning)
{
    lam_plan_done(&planning->plan);
    lam_free(planning->drives);
    lam_manifest_done(&planning->manifest);
    lam_model_file_close(&planning->file);
}

/* ---- wishes */

/* What is said of this machine is the loader's grammar; a size is for this machine or another, and
 * nothing is refused for not being here. */
static enum lam_status set_ram(struct lam_planning *planning, const char *ram, struct lam_err *err)
{
    uint64_t *bytes = &planning->request.host.ram_bytes;
    struct lam_memory memory = {0};
    bool relative = strcmp(ram, "auto") == 0 || strncmp(ram, "free-", strlen("free-")) == 0;
    enum lam_status status = LAM_OK;

    if (relative || strchr(ram, '%'))
        status = lam_memory_read(&memory, err);
    if (!status && relative)
        return lam_memory_budget(&memory, ram, UINT64_MAX, bytes, err);
    if (!status && lam_size_parse(ram, memory.total_bytes, bytes, err))
        return lam_err_wrap(err, LAM_INVALID_ARGUMENT, "--ram");
    return status;
}

/* Its grammar, before any device is touched: as if there were as many as can be. */
static enum lam_status check_vram(const char *vram, struct lam_err *err)
{
    struct lam_vram_device devices[LAM_PLAN_DEVICES_MAX];
    uint64_t caps[LAM_PLAN_DEVICES_MAX];
    char notes[LAM_VRAM_NOTES_BYTES];

    for (uint32_t d = 0; d < LAM_PLAN_DEVICES_MAX; d++) {
        devices[d].total_bytes = devices[d].free_bytes = (uint64_t)1 << 50;
        snprintf(devices[d].name, sizeof devices[d].name, "cuda:%" PRIu32, d);
    }
    return lam_vram_parse(vram, devices, LAM_PLAN_DEVICES_MAX, caps, notes, err);
}

static enum lam_status set_layer_batch(
    struct lam_planning *planning, const char *layer_batch, struct lam_err *err)
{
    int64_t value = 0;

    if (strcmp(layer_batch, "auto") != 0 && !lam_int_parse(layer_batch, 1, LAM_LAYERS_MAX, &value))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--layer-batch: '%.40s' is neither auto nor a number of layers from 1 to %u",
            layer_batch, LAM_LAYERS_MAX);
    planning->request.layer_batch = (uint32_t)value;
    return LAM_OK;
}

static void set_kv_type(struct lam_plan_request *request, const char *kv_type)
{
    request->kv_given = kv_type != NULL;
    if (!kv_type)
        return;
    request->kv_dtype = LAM_F16;
    if (strcmp(kv_type, "f32") == 0)
        request->kv_dtype = LAM_F32;
    if (strcmp(kv_type, "q8_0") == 0)
        request->kv_dtype = LAM_Q8_0;
}

int lam_planning_set_wishes(struct lam_planning *planning, const struct lam_plan_options *options)
{
    struct lam_plan_request *request = &planning->request;
    struct lam_err err = {0};

    request->spec = &planning->spec;
    request->manifest = &planning->manifest;
    request->devices = planning->devices;
    request->n_ctx = (uint32_t)options->n_ctx;
    request->n_seqs = (uint32_t)options->n_seqs;
    request->prefill_chunk = (uint32_t)options->prefill_chunk;
    set_kv_type(request, options->kv_type);
    if (strcmp(options->objective, "throughput") == 0)
        request->objective = LAM_OBJECTIVE_THROUGHPUT;
    if ((options->vram && check_vram(options->vram, &err)) ||
        set_layer_batch(planning, options->layer_batch, &err) ||
        set_ram(planning, options->ram, &err))
        return lam_command_usage(&err);
    return LAM_EXIT_OK;
}

/* ---- facts and devices */

/* Adds a fact to the line of sources, unless it is there: equal devices are named once. */
static void add_source(struct lam_planning *planning, const char *fmt, ...) LAM_PRINTF(2, 3);

static void add_source(struct lam_planning *planning, const char *fmt, ...)
{
    size_t used = strlen(planning->sources);
    char fact[80];
    va_list args;

    va_start(args, fmt);
    vsnprintf(fact, sizeof fact, fmt, args);
    va_end(args);
    if (!strstr(planning->sources, fact))
        snprintf(planning->sources + used, sizeof planning->sources - used, "%s%s",
            used > 0 ? ", " : "", fact);
}

/* The first of them that there is; what nobody gave is named. */
static double choose_rate(struct lam_planning *planning, const char *what, double given,
    double measured, double assumed, bool *ret_assumed)
{
    *ret_assumed = given <= 0 && measured <= 0;
    if (given > 0)
        return given;
    if (measured > 0)
        add_source(planning, "%s %.4g GB/s measured", what, measured / 1e9);
    else
        add_source(planning, "%s %.4g GB/s assumed", what, assumed / 1e9);
    return measured > 0 ? measured : assumed;
}

int lam_planning_read_facts(struct lam_planning *planning, const char *home)
{
    struct lam_err err = {0};

    if (lam_facts_read(home, &planning->facts, &err))
        return lam_command_fail(&err);
    return LAM_EXIT_OK;
}

void lam_planning_use_cpu(struct lam_planning *planning)
{
    double assumed = lam_assumed_cpu_memory_rate(lam_processors());

    planning->request.n_devices = 1;
    planning->devices[0] = (struct lam_plan_device){
        .name = "cpu", .kind = LAM_DEVICE_CPU, .flop_rate = LAM_ASSUMED_CPU_FLOP_RATE};
    planning->request.host.memory_rate = choose_rate(
        planning, "memory", 0, planning->facts.memory_rate, assumed, &planning->memory_assumed);
    planning->request.kv_q8_allowed = true;
}

void lam_planning_add_gpu(struct lam_planning *planning, const char *name,
    const struct lam_gpu_facts *facts, uint64_t free_bytes)
{
    uint32_t d = planning->request.n_devices++;
    struct lam_plan_device *device = &planning->devices[d];
    bool measured = facts->context_bytes > 0;
    bool host_assumed; /* always: nobody measures it */

    *device = (struct lam_plan_device){.kind = LAM_DEVICE_GPU,
        .total_bytes = facts->total_bytes,
        .context_bytes = measured ? facts->context_bytes : GPU_CONTEXT_BYTES,
        .layer_seconds = facts->layer_seconds,
        .flop_rate = LAM_ASSUMED_DEVICE_FLOP_RATE};
    if (d == 0)
        add_source(planning, "context %.2f GiB %s", (double)device->context_bytes / (double)LAM_GIB,
            measured ? "measured" : "assumed");
    device->link_rate = choose_rate(planning, "link", planning->given_link_rate, facts->link_rate,
        LAM_ASSUMED_LINK_RATE, &planning->link_assumed);
    device->memory_rate = choose_rate(planning, "device memory", 0, facts->memory_rate,
        LAM_ASSUMED_DEVICE_MEMORY_RATE, &planning->memory_assumed);
    if (d == 0)
        planning->request.host.memory_rate =
            choose_rate(planning, "host memory", 0, 0, LAM_ASSUMED_HOST_RATE, &host_assumed);
    memcpy(planning->product_rates[d], facts->product_rates, sizeof facts->product_rates);
    snprintf(device->name, sizeof device->name, "%s", name);
    planning->free_bytes[d] = free_bytes;
    planning->request.kv_q8_allowed = true;
}

int lam_planning_set_caps(struct lam_planning *planning, const char *vram)
{
    struct lam_vram_device devices[LAM_PLAN_DEVICES_MAX];
    uint64_t caps[LAM_PLAN_DEVICES_MAX];
    uint32_t n = planning->request.n_devices;
    struct lam_err err = {0};

    for (uint32_t d = 0; d < n; d++) {
        devices[d].total_bytes = planning->devices[d].total_bytes;
        devices[d].free_bytes = planning->free_bytes[d];
        memcpy(devices[d].name, planning->devices[d].name, sizeof devices[d].name);
    }
    if (lam_vram_parse(vram ? vram : "auto", devices, n, caps, planning->notes, &err))
        return lam_command_usage(&err);
    for (uint32_t d = 0; d < n; d++)
        planning->devices[d].cap_bytes = caps[d];
    return LAM_EXIT_OK;
}

/* ---- the plan */

/* On which drives the units lie, as the loader will find. */
static enum lam_status find_drives(struct lam_planning *planning, struct lam_err *err)
{
    struct lam_plan_host *host = &planning->request.host;

    planning->drives = lam_calloc(planning->manifest.n_units, sizeof *planning->drives);
    if (!planning->drives)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of units");
    host->n_drives = lam_drives_group_units(
        &planning->file.file, &planning->manifest, NULL, 0, planning->drives);
    host->drives = planning->drives;
    return LAM_OK;
}

int lam_planning_open_model(
    struct lam_planning *planning, const char *path, const struct lam_shard_flag *shards)
{
    struct lam_err err = {0};
    enum lam_status status = lam_model_file_open(path, shards, &planning->file, &err);

    if (status)
        return lam_command_fail(&err);
    status = lam_spec_read(planning->file.gguf, &planning->spec, &err);
    if (!status)
        status =
            lam_manifest_build(planning->file.gguf, &planning->spec, &planning->manifest, &err);
    if (!status)
        status = find_drives(planning, &err);
    if (!status)
        return LAM_EXIT_OK;
    lam_err_wrap(&err, status, "%.200s", path);
    return lam_command_fail(&err);
}

static uint64_t cpu_context_bytes(const struct lam_planning *planning)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* all of the machine: so gRPC counts its threads */

    return CPU_CONTEXT_BASE_BYTES + (uint64_t)(n < 1 ? 1 : n) * CPU_CONTEXT_THREAD_BYTES +
           CPU_CONTEXT_HEADERS * planning->file.header_bytes;
}

/* How fast a GPU reads this model's mixture of formats in products; 0: not all were measured. */
static double product_rate(const struct lam_manifest *manifest, const double rates[LAM_DTYPE_END])
{
    double seconds = 0;
    uint64_t n_bytes = 0;

    for (uint32_t u = 0; u < manifest->n_units; u++)
        for (uint32_t t = 0; t < manifest->units[u].n_tensors; t++) {
            const struct lam_unit_tensor *tensor = &manifest->units[u].tensors[t];
            if (tensor->n_rows == 1)
                continue; /* a vector */
            if (!(rates[tensor->dtype] > 0))
                return 0;
            seconds += (double)tensor->bytes / rates[tensor->dtype];
            n_bytes += tensor->bytes;
        }
    return seconds > 0 ? (double)n_bytes / seconds : 0;
}

static void set_product_rates(struct lam_planning *planning)
{
    for (uint32_t d = 0; d < planning->request.n_devices; d++) {
        double rate = product_rate(&planning->manifest, planning->product_rates[d]);
        planning->devices[d].product_rate = rate;
        if (rate > 0)
            add_source(planning, "products %.4g GB/s measured", rate / 1e9);
        if (planning->devices[d].layer_seconds > 0)
            add_source(planning, "beside them %.3g us a layer measured",
                planning->devices[d].layer_seconds * 1e6);
    }
}

int lam_planning_make(struct lam_planning *planning)
{
    struct lam_err err = {0};
    enum lam_status status;

    planning->request.host.disk_rate = choose_rate(planning, "disk", planning->given_disk_rate,
        planning->facts.disk_rate, LAM_ASSUMED_DISK_RATE, &planning->disk_assumed);
    if (planning->devices[0].kind == LAM_DEVICE_CPU) {
        planning->devices[0].context_bytes = cpu_context_bytes(planning);
        add_source(planning, "processes %.1f MiB",
            (double)planning->devices[0].context_bytes / (double)LAM_MIB);
    }
    set_product_rates(planning);
    status = lam_plan_make(&planning->request, &planning->plan, &err);
    if (status == LAM_INVALID_ARGUMENT)
        return lam_command_usage(&err);
    return status ? lam_command_fail(&err) : LAM_EXIT_OK;
}

/* Plans again with a GiB more. Without memory for that, the gain stays unknown. */
static double seconds_with(const struct lam_plan_request *request)
{
    struct lam_plan plan;
    double seconds = 0;

    if (lam_plan_make(request, &plan, NULL))
        return 0;
    if (plan.fits)
        seconds = plan.pass_seconds;
    lam_plan_done(&plan);
    return seconds;
}

/* A context that nobody asked for may cost more than it is worth: weights leave memory for it. The
 * longest of its halves that gains the most is told. */
static void find_context(const struct lam_planning *planning, struct lam_plan_gain *gain)
{
    const struct lam_plan *plan = &planning->plan;
    struct lam_plan_request request = planning->request;
    double best = plan->pass_seconds * CTX_GAIN_MIN;

    if (request.n_ctx > 0 || request.n_devices > 1)
        return;
    for (request.n_ctx = plan->n_ctx / 2; request.n_ctx >= CTX_LEAST; request.n_ctx /= 2) {
        double seconds = seconds_with(&request);
        if (seconds <= 0 || seconds >= best)
            continue;
        gain->n_ctx = request.n_ctx;
        gain->ctx_seconds = seconds;
        best = seconds * CTX_GAIN_MIN;
    }
}

/* What was chosen stays: only the memory is more. */
struct lam_plan_gain lam_planning_gain(const struct lam_planning *planning)
{
    const struct lam_plan *plan = &planning->plan;
    struct lam_plan_device devices[LAM_PLAN_DEVICES_MAX];
    struct lam_plan_request request = planning->request;
    struct lam_plan_gain gain = {0};

    if (!plan->fits)
        return gain;
    request.n_ctx = plan->n_ctx;
    request.n_seqs = plan->n_seqs;
    request.prefill_chunk = plan->prefill_chunk;
    request.kv_dtype = plan->kv_dtype;
    request.kv_given = true;
    request.host.ram_bytes += LAM_GIB;
    gain.ram_seconds = seconds_with(&request);
    request.host.ram_bytes -= LAM_GIB;
    memcpy(devices, planning->devices, sizeof devices);
    for (uint32_t d = 0; d < request.n_devices; d++)
        if (devices[d].cap_bytes > 0)
            devices[d].cap_bytes += LAM_GIB;
    request.devices = devices;
    if (devices[0].kind == LAM_DEVICE_GPU)
        gain.vram_seconds = seconds_with(&request);
    find_context(planning, &gain);
    return gain;
}

/* Each line, on stderr: stdout is for the result. */
static void print_lines(const char *notes)
{
    while (*notes) {
        size_t length = strcspn(notes, "\n");
        fprintf(stderr, "laminar: note: %.*s\n", (int)length, notes);
        notes += length + (notes[length] == '\n');
    }
}

void lam_planning_print_notes(const struct lam_planning *planning)
{
    print_lines(planning->notes);
    print_lines(planning->plan.notes);
}

const char *lam_planning_kv_type(const struct lam_planning *planning)
{
    switch (planning->plan.kv_dtype) {
    case LAM_F32:
        return "f32";
    case LAM_Q8_0:
        return "q8_0";
    default:
        return "f16";
    }
}
