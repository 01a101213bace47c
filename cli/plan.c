/*
 * plan: `laminar plan`, what a run will take and how fast it will be, from the model's header and
 * facts about a machine. No device is asked: a model can be planned for a machine that is not here.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "cli/command.h"
#include "cli/device_flag.h"
#include "cli/json.h"
#include "cli/planning.h"
#include "common/size.h"

#define OWN_FLAGS 5

struct command_line {
    const char *path;
    const char *gpu;
    const char *link;
    const char *disk;
    const char *stages;
    struct lam_plan_options options;
    bool json;
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
        "--gpu: '%.*s' is not the memory of up to %u devices; write for example 80GiB, 24GiB*2, "
        "80GiB*4,24GiB, or measured for what `laminar doctor --measure` found",
        (int)(length < 40 ? length : 40), item, LAM_PLAN_DEVICES_MAX);
}

/* "80GiB", or "measured". */
static enum lam_status read_gpu(
    const struct lam_planning *planning, const char *item, struct lam_gpu_facts *gpu)
{
    const struct lam_facts *facts = &planning->facts;

    if (strcasecmp(item, "measured") != 0)
        return lam_size_parse(item, 0, &gpu->total_bytes, NULL);
    if (facts->n_gpus == 0)
        return LAM_NOT_FOUND;
    *gpu = facts->gpus[facts->n_gpus - 1];
    return LAM_OK;
}

static enum lam_status no_measured_gpu(const char *flag, struct lam_err *err)
{
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "%s: no GPU was measured on this machine; run `laminar doctor --measure`, or say with "
        "--gpu what it is, for example --gpu 80GiB",
        flag);
}

static void add_gpu(struct lam_planning *planning, uint32_t index, const struct lam_gpu_facts *gpu)
{
    char name[32];

    snprintf(name, sizeof name, "cuda:%" PRIu32, index);
    lam_planning_add_gpu(planning, name, gpu, gpu->total_bytes);
}

/* "80GiB*4,24GiB": the memory of each device. */
static enum lam_status add_gpus(
    struct lam_planning *planning, const char *text, struct lam_err *err)
{
    while (text) {
        size_t length = strcspn(text, ",");
        struct lam_gpu_facts gpu = {0};
        char item[48];
        char *star;
        int64_t count = 1;
        if (length >= sizeof item)
            return bad_gpu(text, length, err);
        memcpy(item, text, length);
        item[length] = '\0';
        star = strchr(item, '*');
        if (star)
            *star = '\0';
        if (strcasecmp(item, "measured") == 0 && planning->facts.n_gpus == 0)
            return no_measured_gpu("--gpu measured", err);
        if ((star && !lam_int_parse(star + 1, 1, LAM_PLAN_DEVICES_MAX, &count)) ||
            read_gpu(planning, item, &gpu) || gpu.total_bytes == 0 ||
            planning->request.n_devices + count > LAM_PLAN_DEVICES_MAX)
            return bad_gpu(text, length, err);
        for (; count > 0; count--)
            add_gpu(planning, planning->request.n_devices, &gpu);
        text = text[length] ? text + length + 1 : NULL;
    }
    return LAM_OK;
}

/* --device cuda:0,cuda:1: each as the one that was measured here. */
static enum lam_status add_measured(
    struct lam_planning *planning, const struct lam_device_flag *device, struct lam_err *err)
{
    struct lam_gpu_facts gpu = {0};
    char flag[32];

    snprintf(flag, sizeof flag, "--device cuda:%" PRIu32, device->gpus[0]);
    if (read_gpu(planning, "measured", &gpu))
        return no_measured_gpu(flag, err);
    for (uint32_t i = 0; i < device->n_gpus; i++)
        add_gpu(planning, device->gpus[i], &gpu);
    return LAM_OK;
}

static enum lam_status check_devices(
    const struct command_line *line, const struct lam_device_flag *device, struct lam_err *err)
{
    if (!device->is_auto && line->gpu)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--gpu goes not with --device %.40s; drop one",
            line->options.device);
    if (!line->gpu && device->n_gpus == 0 && (line->options.vram || line->link))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--vram and --link are for GPUs; say which with --gpu, for example --gpu \"80GiB*4\"");
    return LAM_OK;
}

/* The devices to plan for: nothing of this machine is asked. */
static int set_devices(const struct command_line *line, struct lam_planning *planning)
{
    struct lam_device_flag device;
    struct lam_err err = {0};

    if (lam_device_flag_parse(line->options.device, &device, &err) ||
        check_devices(line, &device, &err) ||
        (line->link && parse_rate("--link", line->link, &planning->given_link_rate, &err)) ||
        (line->disk && parse_rate("--disk", line->disk, &planning->given_disk_rate, &err)) ||
        (line->gpu && add_gpus(planning, line->gpu, &err)) ||
        (device.n_gpus > 0 && add_measured(planning, &device, &err)))
        return lam_command_usage(&err);
    if (planning->request.n_devices > 0)
        return lam_planning_set_caps(planning, line->options.vram);
    lam_planning_use_cpu(planning);
    return LAM_EXIT_OK;
}

static int print_plan(const struct command_line *line, const struct lam_planning *planning)
{
    struct lam_plan_report report = {.out = stdout,
        .request = &planning->request,
        .plan = &planning->plan,
        .sources = planning->sources};
    struct lam_err err = {0};

    lam_planning_print_notes(planning);
    if (line->json) {
        json_t *root = lam_json_begin();
        lam_plan_report_json(&report, root);
        if (lam_json_print(root, &err))
            return lam_command_fail(&err);
    } else {
        report.gain = lam_planning_gain(planning);
        lam_plan_report_text(&report);
    }
    return planning->plan.fits ? LAM_EXIT_OK : lam_command_no_fit(&planning->plan.reason);
}

static int execute(const struct command_line *line, const char *home, struct lam_planning *planning)
{
    int exit_code = lam_planning_set_wishes(planning, &line->options);

    if (strcmp(line->stages, "ranges") == 0)
        planning->request.stages = LAM_STAGES_RANGES;
    if (exit_code == LAM_EXIT_OK)
        exit_code = lam_planning_read_facts(planning, home);
    if (exit_code == LAM_EXIT_OK)
        exit_code = set_devices(line, planning);
    if (exit_code == LAM_EXIT_OK)
        exit_code = lam_planning_open_model(planning, line->path, &line->options.shards);
    if (exit_code == LAM_EXIT_OK)
        exit_code = lam_planning_make(planning);
    return exit_code == LAM_EXIT_OK ? print_plan(line, planning) : exit_code;
}

static const char *const epilog =
    "Examples:\n"
    "  laminar plan model.gguf --ram 8GiB\n"
    "  laminar plan model.gguf --gpu 80GiB --vram 3GiB --ctx 4096\n"
    "  laminar plan model.gguf --gpu \"24GiB*4\" --vram 3,3,3,3 --link 25GB/s --json\n"
    "  laminar plan model.gguf --gpu measured --vram 3GiB   (after laminar doctor --measure)";

int lam_command_plan(const struct lam_command_env *env, int argc, char **argv)
{
    struct command_line line = {.stages = "auto", .options = lam_plan_options_defaults()};
    struct lam_planning planning = {0};
    struct lam_flag flags[OWN_FLAGS + LAM_PLAN_FLAGS + 1] = {
        {"gpu", 0, LAM_FLAG_TEXT, &line.gpu, "SIZE[*N]",
            "Plan for GPUs with so much memory, separated by commas, or for the one that was "
            "measured; without it, for this CPU.",
            0, 0, NULL, NULL},
        {"link", 0, LAM_FLAG_TEXT, &line.link, "RATE", "Host to device, for example 25GB/s.", 0, 0,
            NULL, NULL},
        {"disk", 0, LAM_FLAG_TEXT, &line.disk, "RATE", "Reads of the model, for example 7GB/s.", 0,
            0, NULL, NULL},
        {"stages", 0, LAM_FLAG_CHOICE, &line.stages, "HOW",
            "Several GPUs: auto deals layers out in turn when they are streamed; ranges keeps "
            "neighbours together.",
            0, 0, "auto|ranges", NULL},
        {"json", 0, LAM_FLAG_BOOL, &line.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
    };
    const struct lam_flag_program program = {
        .usage = "laminar plan MODEL [flags]",
        .summary = "Says where every byte of a run goes and how fast it will be, from the model's "
                   "header alone. Exits 3 when it does not fit, with what would help.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    lam_plan_options_add_flags(&line.options, flags + OWN_FLAGS);
    if (!lam_command_begin(&program, argc, argv, &line.path, 1, &exit_code))
        return exit_code;
    exit_code = execute(&line, env->home, &planning);
    lam_planning_done(&planning);
    return exit_code;
}
