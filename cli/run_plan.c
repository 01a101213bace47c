/* run_plan: see run_plan.h. */
#include "cli/run_plan.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/device.h"
#include "cli/device_flag.h"
#include "common/size.h"

/* As exact as plans are. */
#define CALIBRATION_TOLERANCE_BYTES (32 * LAM_MIB)

/* Of --device: at most one GPU. */
static enum lam_status read_device(
    const char *text, struct lam_device_flag *ret_flag, struct lam_err *err)
{
    enum lam_status status = lam_device_flag_parse(text, ret_flag, err);

    if (!status && ret_flag->n_gpus > 1)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--device: '%.40s' names several GPUs, and a model is computed on one in this version; "
            "write for example cuda:0 (`laminar plan` plans for several)",
            text);
    return status;
}

/* A list speaks of all devices; anything else of the one that is used. */
static bool is_list(const char *vram)
{
    return vram && strpbrk(vram, ",=");
}

/* The first start with this GPU, driver and library: what a process takes there is kept. Where it
 * cannot be kept it is measured again with every start, as it is anyway. */
static void calibrate(
    struct lam_planning *planning, const char *home, const struct lam_gpu_facts *facts)
{
    char path[PATH_MAX], text[24];
    struct lam_err err = {0};

    lam_facts_put(&planning->facts, facts);
    if (!lam_facts_write(home, &planning->facts, &err))
        fprintf(stderr,
            "laminar: note: a process takes %s on %s before its own first byte; kept in %.200s "
            "(`laminar doctor --measure` adds its speeds)\n",
            lam_size_format(facts->context_bytes, text, sizeof text), facts->name,
            lam_facts_path(home, path));
}

/* What was kept against what is: the plan is made from what is. */
static void check_calibration(
    const char *device, const struct lam_gpu_facts *stored, const struct lam_gpu_facts *now)
{
    uint64_t was = stored->context_bytes, is = now->context_bytes;
    char texts[2][24];

    if ((was > is ? was - is : is - was) <= CALIBRATION_TOLERANCE_BYTES)
        return;
    fprintf(stderr,
        "laminar: note: a process takes %s on %s, and took %s when that was measured with the same "
        "driver and library: the plan counts %s; `laminar doctor --measure` keeps it\n",
        lam_size_format(is, texts[0], sizeof texts[0]), device,
        lam_size_format(was, texts[1], sizeof texts[1]), texts[0]);
}

static void add_device(
    struct lam_planning *planning, const char *home, const struct lam_device_answer *answer)
{
    struct lam_gpu_facts facts = answer->facts;
    const struct lam_gpu_facts *stored =
        lam_facts_find(&planning->facts, facts.name, facts.driver, facts.library);
    char name[32];

    snprintf(name, sizeof name, "cuda:%" PRIu32, answer->index);
    if (stored) {
        if (answer->context_is_exact)
            check_calibration(name, stored, &facts);
        facts.link_rate = stored->link_rate;
        facts.memory_rate = stored->memory_rate;
        memcpy(facts.product_rates, stored->product_rates, sizeof facts.product_rates);
        facts.layer_seconds = stored->layer_seconds;
    } else if (answer->context_is_exact) {
        calibrate(planning, home, &facts);
    }
    lam_planning_add_gpu(planning, name, &facts, answer->free_bytes);
}

/* Keeps the device that computes. Of several with a cap, --device names it: it is not for us to
 * plan one thing and run another. */
static int keep_one(const struct lam_device_flag *choice, struct lam_run_plan *plan)
{
    struct lam_planning *planning = &plan->planning;
    uint32_t kept = planning->request.n_devices, n_used = 0;
    struct lam_err err = {0};

    for (uint32_t d = 0; d < planning->request.n_devices; d++) {
        char name[32];
        snprintf(name, sizeof name, "cuda:%" PRIu32, choice->gpus[0]);
        if (planning->devices[d].cap_bytes == 0)
            continue;
        n_used++;
        if (choice->is_auto ? n_used == 1 : strcmp(planning->devices[d].name, name) == 0)
            kept = d;
    }
    if (kept == planning->request.n_devices) {
        lam_fail(&err, LAM_INVALID_ARGUMENT,
            "--vram gives no memory to cuda:%" PRIu32 ", which --device names", choice->gpus[0]);
        return lam_command_usage(&err);
    }
    if (n_used > 1 && choice->is_auto) {
        lam_fail(&err, LAM_INVALID_ARGUMENT,
            "--vram gives memory to %" PRIu32 " devices, and a model is computed on one in this "
            "version; choose it, for example --device %s (`laminar plan` plans for all of them)",
            n_used, planning->devices[kept].name);
        return lam_command_usage(&err);
    }
    planning->devices[0] = planning->devices[kept];
    memmove(planning->product_rates[0], planning->product_rates[kept],
        sizeof planning->product_rates[0]);
    planning->request.n_devices = 1;
    return LAM_EXIT_OK;
}

static int use_gpu(const struct lam_device_flag *choice, const struct lam_run_plan_config *config,
    const struct lam_device_answer *answers, uint32_t n, struct lam_run_plan *plan)
{
    int exit_code;

    for (uint32_t i = 0; i < n; i++)
        add_device(&plan->planning, config->home, &answers[i]);
    exit_code = lam_planning_set_caps(&plan->planning, config->options->vram);
    return exit_code == LAM_EXIT_OK ? keep_one(choice, plan) : exit_code;
}

/* auto without a GPU is the CPU, unless --vram wants a GPU. */
static int use_cpu(const struct lam_device_flag *choice, const struct lam_run_plan_config *config,
    const struct lam_err *no_gpu, struct lam_run_plan *plan)
{
    struct lam_err err = *no_gpu;

    if (config->options->vram) {
        if (choice->is_cpu)
            lam_fail(
                &err, LAM_INVALID_ARGUMENT, "--vram is for a GPU: leave it out with --device cpu");
        else
            lam_fail(&err, LAM_INVALID_ARGUMENT,
                "--vram is for a GPU (leave it out to compute on the CPU): %s", no_gpu->text);
        return lam_command_usage(&err);
    }
    if (!choice->is_cpu && !choice->is_auto)
        return lam_command_fail(&err);
    lam_planning_use_cpu(&plan->planning);
    return LAM_EXIT_OK;
}

static int use_devices(const struct lam_device_flag *choice,
    const struct lam_run_plan_config *config, struct lam_run_plan *plan)
{
    bool list = is_list(config->options->vram);
    struct lam_device_question question = {.folder = config->cuda_library,
        .first = list ? 0 : choice->gpus[0],
        .n_max = list ? LAM_FACTS_GPUS_MAX : 1};
    struct lam_device_answer answers[LAM_FACTS_GPUS_MAX];
    struct lam_err err = {0};
    uint32_t n = 0;

    if (choice->is_cpu || lam_device_ask(&question, answers, &n, &err))
        return use_cpu(choice, config, &err, plan);
    return use_gpu(choice, config, answers, n, plan);
}

int lam_run_plan_make(const struct lam_run_plan_config *config, struct lam_run_plan *ret_plan)
{
    struct lam_planning *planning = &ret_plan->planning;
    struct lam_err err = {0};
    struct lam_device_flag choice = {0};
    int exit_code;

    memset(ret_plan, 0, sizeof *ret_plan);
    if (read_device(config->options->device, &choice, &err))
        return lam_command_usage(&err);
    exit_code = lam_planning_set_wishes(planning, config->options);
    if (exit_code == LAM_EXIT_OK)
        exit_code = lam_planning_read_facts(planning, config->home);
    if (exit_code == LAM_EXIT_OK)
        exit_code = lam_planning_open_model(planning, config->model, &config->options->shards);
    if (exit_code == LAM_EXIT_OK)
        exit_code = use_devices(&choice, config, ret_plan);
    if (exit_code != LAM_EXIT_OK)
        return exit_code;
    planning->request.n_logit_rows = config->n_logit_rows;
    if (planning->request.n_seqs == 0 && planning->request.objective == LAM_OBJECTIVE_LATENCY)
        planning->request.n_seqs = config->n_seqs;
    exit_code = lam_planning_make(planning);
    if (exit_code != LAM_EXIT_OK)
        return exit_code;
    snprintf(ret_plan->device, sizeof ret_plan->device, "%s", planning->devices[0].name);
    lam_planning_print_notes(planning);
    return planning->plan.fits ? LAM_EXIT_OK : lam_command_no_fit(&planning->plan.reason);
}

void lam_run_plan_done(struct lam_run_plan *plan)
{
    lam_planning_done(&plan->planning);
}
