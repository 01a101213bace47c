/*
 * plan: `laminar plan`, what a run will take and how fast it will be, from the model's header and
 * facts about a machine. No device is asked: a model can be planned for a machine that is not here.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/model_file.h"
#include "cli/plan_report.h"
#include "common/flag.h"
#include "common/size.h"
#include "loader/memory.h"
#include "model/manifest.h"
#include "model/plan.h"
#include "model/spec.h"
#include "model/vram.h"

/* What is assumed where nothing is given: PCIe 4 x16, a good NVMe drive, a server's memory, and a
 * GPU of the last years. */
#define LINK_RATE 25e9
#define DISK_RATE 3e9
#define HOST_RATE 100e9
#define THREAD_RATE 6e9 /* that one of many threads reads at */
#define THREADS_MAX 16
#define DEVICE_MEMORY_RATE 2e12
#define DEVICE_FLOP_RATE 200e12
#define CPU_FLOP_RATE 500e9
#define GPU_CONTEXT_BYTES (512 * LAM_MIB)
/* Loader and worker without pool and arena. */
#define CPU_CONTEXT_BYTES (128 * LAM_MIB)
#define ASSUMED_BYTES 200

struct command_line {
    const char *path;
    const char *gpu;
    const char *link;
    const char *disk;
    const char *vram;
    const char *ram;
    const char *kv_type;
    const char *layer_batch;
    const char *objective;
    const char *stages;
    int64_t n_ctx;
    int64_t n_seqs;
    int64_t prefill_chunk;
    bool json;
};

/* All that a plan is made from. */
struct planning {
    struct lam_model_file file;
    struct lam_spec spec;
    struct lam_manifest manifest;
    struct lam_plan_device devices[LAM_PLAN_DEVICES_MAX];
    struct lam_plan_request request;
    char notes[LAM_VRAM_NOTES_BYTES];
    char assumed[ASSUMED_BYTES];
};

/* "25GB/s" */
static enum lam_status parse_rate(
    const char *flag, const char *text, double *ret_rate, struct lam_err *err)
{
    size_t length = strlen(text);
    char size[48];
    uint64_t bytes = 0;

    if (length > 2 && length < sizeof size && strcasecmp(text + length - 2, "/s") == 0) {
        memcpy(size, text, length - 2);
        size[length - 2] = '\0';
        if (lam_size_parse(size, 0, &bytes, NULL))
            bytes = 0;
    }
    if (bytes == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s: '%.40s' is not a speed; write for example 25GB/s, 7.5GB/s or 800MB/s", flag, text);
    *ret_rate = (double)bytes;
    return LAM_OK;
}

static enum lam_status bad_gpu(const char *item, size_t length, struct lam_err *err)
{
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "--gpu: '%.*s' is not the memory of up to %u devices; write for example 80GiB, 24GiB*2 or "
        "80GiB*4,24GiB",
        (int)(length < 40 ? length : 40), item, LAM_PLAN_DEVICES_MAX);
}

/* "80GiB*4,24GiB": the memory of each device. */
static enum lam_status parse_gpus(const char *text, struct planning *planning, struct lam_err *err)
{
    struct lam_plan_request *request = &planning->request;

    while (text) {
        size_t length = strcspn(text, ",");
        char item[48];
        char *star;
        int64_t count = 1;
        uint64_t bytes = 0;
        if (length >= sizeof item)
            return bad_gpu(text, length, err);
        memcpy(item, text, length);
        item[length] = '\0';
        star = strchr(item, '*');
        if (star)
            *star = '\0';
        if ((star && !lam_int_parse(star + 1, 1, LAM_PLAN_DEVICES_MAX, &count)) ||
            lam_size_parse(item, 0, &bytes, NULL) || bytes == 0 ||
            request->n_devices + count > LAM_PLAN_DEVICES_MAX)
            return bad_gpu(text, length, err);
        for (; count > 0; count--) {
            struct lam_plan_device *device = &planning->devices[request->n_devices];
            *device = (struct lam_plan_device){.kind = LAM_DEVICE_GPU,
                .total_bytes = bytes,
                .context_bytes = GPU_CONTEXT_BYTES,
                .link_rate = LINK_RATE,
                .memory_rate = DEVICE_MEMORY_RATE,
                .flop_rate = DEVICE_FLOP_RATE};
            snprintf(device->name, sizeof device->name, "cuda:%" PRIu32, request->n_devices++);
        }
        text = text[length] ? text + length + 1 : NULL;
    }
    return LAM_OK;
}

static enum lam_status set_caps(
    const struct command_line *line, struct planning *planning, struct lam_err *err)
{
    struct lam_vram_device devices[LAM_PLAN_DEVICES_MAX];
    uint64_t caps[LAM_PLAN_DEVICES_MAX];
    uint32_t n = planning->request.n_devices;
    enum lam_status status;

    for (uint32_t d = 0; d < n; d++) {
        devices[d].total_bytes = planning->devices[d].total_bytes;
        devices[d].free_bytes = planning->devices[d].total_bytes;
        memcpy(devices[d].name, planning->devices[d].name, sizeof devices[d].name);
    }
    status = lam_vram_parse(line->vram, devices, n, caps, planning->notes, err);
    for (uint32_t d = 0; d < n && !status; d++)
        planning->devices[d].cap_bytes = caps[d];
    return status;
}

/* For this machine or another: nothing is refused for not being here. */
static enum lam_status set_ram(
    const struct command_line *line, struct planning *planning, struct lam_err *err)
{
    struct lam_memory memory = {0};
    bool is_auto = strcasecmp(line->ram, "auto") == 0;
    bool needs_machine = is_auto || strchr(line->ram, '%');
    enum lam_status status = needs_machine ? lam_memory_read(&memory, err) : LAM_OK;

    if (!status && is_auto)
        planning->request.host.ram_bytes = memory.available_bytes / 4 * 3;
    else if (!status &&
             lam_size_parse(line->ram, memory.total_bytes, &planning->request.host.ram_bytes, err))
        return lam_err_wrap(err, LAM_INVALID_ARGUMENT, "--ram");
    return status;
}

/* What this machine's processors read together. */
static double cpu_memory_rate(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    if (n < 1 || n > THREADS_MAX)
        n = n < 1 ? 1 : THREADS_MAX;
    return THREAD_RATE * (double)n;
}

static enum lam_status set_machine(
    const struct command_line *line, struct planning *planning, struct lam_err *err)
{
    struct lam_plan_request *request = &planning->request;
    double link = LINK_RATE;
    enum lam_status status = LAM_OK;

    if (!line->gpu && (strcmp(line->vram, "auto") != 0 || line->link))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--vram and --link are for GPUs; say which with --gpu, for example --gpu \"80GiB*4\"");
    request->host = (struct lam_plan_host){
        .disk_rate = DISK_RATE, .memory_rate = line->gpu ? HOST_RATE : cpu_memory_rate()};
    if (line->gpu)
        status = parse_gpus(line->gpu, planning, err);
    else
        planning->devices[request->n_devices++] = (struct lam_plan_device){.name = "cpu",
            .kind = LAM_DEVICE_CPU,
            .context_bytes = CPU_CONTEXT_BYTES,
            .flop_rate = CPU_FLOP_RATE};
    if (!status && line->gpu)
        status = set_caps(line, planning, err);
    if (!status && line->link)
        status = parse_rate("--link", line->link, &link, err);
    for (uint32_t d = 0; d < request->n_devices; d++)
        planning->devices[d].link_rate = link;
    if (!status && line->disk)
        status = parse_rate("--disk", line->disk, &request->host.disk_rate, err);
    if (!status)
        status = set_ram(line, planning, err);
    if (line->gpu)
        snprintf(planning->assumed, sizeof planning->assumed,
            "%scontext %.2f GiB, device memory %.0f GB/s, host memory %.0f GB/s%s",
            line->link ? "" : "link 25 GB/s (--link), ", (double)GPU_CONTEXT_BYTES / LAM_GIB,
            DEVICE_MEMORY_RATE / 1e9, HOST_RATE / 1e9, line->disk ? "" : ", disk 3 GB/s (--disk)");
    else
        snprintf(planning->assumed, sizeof planning->assumed,
            "processes %.2f GiB, memory %.0f GB/s%s", (double)CPU_CONTEXT_BYTES / LAM_GIB,
            request->host.memory_rate / 1e9, line->disk ? "" : ", disk 3 GB/s (--disk)");
    return status;
}

static enum lam_status set_request(
    const struct command_line *line, struct planning *planning, struct lam_err *err)
{
    struct lam_plan_request *request = &planning->request;
    int64_t layer_batch = 0;

    request->spec = &planning->spec;
    request->manifest = &planning->manifest;
    request->devices = planning->devices;
    request->n_ctx = (uint32_t)line->n_ctx;
    request->n_seqs = (uint32_t)line->n_seqs;
    request->prefill_chunk = (uint32_t)line->prefill_chunk;
    if (strcmp(line->layer_batch, "auto") != 0 &&
        !lam_int_parse(line->layer_batch, 1, LAM_LAYERS_MAX, &layer_batch))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--layer-batch: '%.40s' is neither auto nor a number of layers from 1 to %u",
            line->layer_batch, LAM_LAYERS_MAX);
    request->layer_batch = (uint32_t)layer_batch;
    request->kv_given = line->kv_type != NULL;
    if (request->kv_given) {
        request->kv_dtype = strcmp(line->kv_type, "f32") == 0 ? LAM_F32 : LAM_F16;
        if (strcmp(line->kv_type, "q8_0") == 0)
            request->kv_dtype = LAM_Q8_0;
    }
    request->kv_q8_allowed = line->gpu != NULL;
    if (strcmp(line->objective, "throughput") == 0)
        request->objective = LAM_OBJECTIVE_THROUGHPUT;
    if (strcmp(line->stages, "ranges") == 0)
        request->stages = LAM_STAGES_RANGES;
    return LAM_OK;
}

static enum lam_status open_model(const char *path, struct planning *planning, struct lam_err *err)
{
    enum lam_status status = lam_model_file_open(path, &planning->file, err);

    if (status)
        return status;
    status = lam_spec_read(planning->file.gguf, &planning->spec, err);
    if (!status)
        status = lam_manifest_build(planning->file.gguf, &planning->spec, &planning->manifest, err);
    return status ? lam_err_wrap(err, status, "%.200s", path) : LAM_OK;
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

/* What was chosen stays: only the memory is more. */
static struct lam_plan_gain find_gain(const struct planning *planning, const struct lam_plan *plan)
{
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
    return gain;
}

/* Each line of a plan's notes, on stderr: stdout is for the table or the object. */
static void print_notes(const char *notes)
{
    while (*notes) {
        size_t length = strcspn(notes, "\n");
        fprintf(stderr, "laminar: note: %.*s\n", (int)length, notes);
        notes += length + (notes[length] == '\n');
    }
}

static int print_plan(
    const struct command_line *line, const struct planning *planning, const struct lam_plan *plan)
{
    struct lam_plan_report report = {
        .request = &planning->request, .plan = plan, .assumed = planning->assumed};
    struct lam_err err = {0};

    print_notes(planning->notes);
    print_notes(plan->notes);
    if (line->json) {
        if (lam_plan_report_json(&report, &err))
            return lam_command_fail(&err);
    } else {
        report.gain = find_gain(planning, plan);
        lam_plan_report_text(&report);
    }
    return plan->fits ? LAM_EXIT_OK : lam_command_no_fit(&plan->reason);
}

static int execute(const struct command_line *line, struct planning *planning)
{
    struct lam_plan plan = {0};
    struct lam_err err = {0};
    enum lam_status status;
    int exit_code;

    if (set_machine(line, planning, &err) || set_request(line, planning, &err))
        return lam_command_usage(&err);
    if (open_model(line->path, planning, &err))
        return lam_command_fail(&err);
    status = lam_plan_make(&planning->request, &plan, &err);
    if (status)
        return status == LAM_INVALID_ARGUMENT ? lam_command_usage(&err) : lam_command_fail(&err);
    exit_code = print_plan(line, planning, &plan);
    lam_plan_done(&plan);
    return exit_code;
}

static const char *const epilog =
    "Examples:\n"
    "  laminar plan model.gguf --ram 8GiB\n"
    "  laminar plan model.gguf --gpu 80GiB --vram 3GiB --ctx 4096\n"
    "  laminar plan model.gguf --gpu \"24GiB*4\" --vram 3,3,3,3 --link 25GB/s --json";

int lam_command_plan(const struct lam_command_env *env, int argc, char **argv)
{
    struct command_line line = {.vram = "auto",
        .ram = "auto",
        .layer_batch = "auto",
        .objective = "latency",
        .stages = "auto"};
    struct planning planning = {0};
    const struct lam_flag flags[] = {
        {"gpu", 0, LAM_FLAG_TEXT, &line.gpu, "SIZE[*N]",
            "Plan for GPUs with so much memory, separated by commas; without it, for this CPU.", 0,
            0, NULL, NULL},
        {"link", 0, LAM_FLAG_TEXT, &line.link, "RATE", "Host to device, for example 25GB/s.", 0, 0,
            NULL, NULL},
        {"disk", 0, LAM_FLAG_TEXT, &line.disk, "RATE", "Reads of the model, for example 7GB/s.", 0,
            0, NULL, NULL},
        {"vram", 0, LAM_FLAG_TEXT, &line.vram, "SPEC[,SPEC..]",
            "All that may be held on each GPU: 3GiB, 75%, free-1GiB, auto, off; 0=3GiB,2=75%; "
            "3,3,... repeats.",
            0, 0, NULL, NULL},
        {"ram", 0, LAM_FLAG_TEXT, &line.ram, "SIZE",
            "Memory of the pool; without GPUs, of everything. auto: three quarters of what is "
            "available.",
            0, 0, NULL, NULL},
        {"ctx", 0, LAM_FLAG_INT, &line.n_ctx, "N",
            "Tokens of a sequence; 0: what the model was trained for, at most 8192, or less if "
            "that does not fit.",
            0, 1 << 24, NULL, NULL},
        {"batch", 0, LAM_FLAG_INT, &line.n_seqs, "N", "Sequences that share passes; 0: 1.", 0, 1024,
            NULL, NULL},
        {"prefill-chunk", 0, LAM_FLAG_INT, &line.prefill_chunk, "N",
            "Rows of one pass of a prompt; 0: 512, without GPUs 256.", 0, 8192, NULL, NULL},
        {"kv-type", 0, LAM_FLAG_CHOICE, &line.kv_type, "TYPE", "Numbers of the KV cache.", 0, 0,
            "f16|f32|q8_0", NULL},
        {"layer-batch", 0, LAM_FLAG_TEXT, &line.layer_batch, "N|auto",
            "Whole layers in a slot; auto: one, or parts of one where memory is tight.", 0, 0, NULL,
            NULL},
        {"objective", 0, LAM_FLAG_CHOICE, &line.objective, "WHAT",
            "What memory is for: resident weights, or more sequences at a time.", 0, 0,
            "latency|throughput", NULL},
        {"stages", 0, LAM_FLAG_CHOICE, &line.stages, "HOW",
            "Several GPUs: auto deals layers out in turn when they are streamed; ranges keeps "
            "neighbours together.",
            0, 0, "auto|ranges", NULL},
        {"json", 0, LAM_FLAG_BOOL, &line.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar plan MODEL [flags]",
        .summary = "Says where every byte of a run goes and how fast it will be, from the model's "
                   "header alone. Exits 3 when it does not fit, with what would help.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    (void)env;
    if (!lam_command_begin(&program, argc, argv, &line.path, 1, &exit_code))
        return exit_code;
    exit_code = execute(&line, &planning);
    lam_manifest_done(&planning.manifest);
    lam_model_file_close(&planning.file);
    return exit_code;
}
