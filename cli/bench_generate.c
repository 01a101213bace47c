/*
 * bench_generate: `laminar bench generate`, what a model does on this machine: starts the services
 * as `run` does, drives several texts at once through the gateway, and holds what was observed
 * against the plan and the machine's ceilings. bench_figures.h says what a pass is.
 *
 * Time of a pass and tokens per second are as a client sees them. Where the time went is the
 * worker's own word; the peak of device memory is read from outside.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench_figures.h"
#include "cli/command.h"
#include "cli/drive.h"
#include "cli/gpu_watch.h"
#include "cli/json.h"
#include "cli/session.h"
#include "cli/trace_merge.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/size.h"

#define ASK_TIMEOUT_NS (10 * LAM_NS_PER_S)
#define CUDA_PREFIX "cuda:"

struct bench {
    const char *model;
    struct lam_stack_options stack;
    int64_t n_texts;
    int64_t n_prompt;
    int64_t n_generate;
    bool json;
    const char *trace; /* file; NULL: none */
    const struct lam_planning *planning;
    const char *device;          /* "cpu", "cuda:0" */
    struct lam_gpu_watch *watch; /* NULL: no GPU, or nothing to read it with */
    uint64_t began_ns;
    uint64_t ready_ns;
    struct lam_loader_stats loader_before; /* of the window */
    struct lam_loader_stats loader;
    uint64_t *disk_at; /* [n_generate] bytes read with each token of the first text; or NULL */
    struct lam_client_model model_before;
    struct lam_client_model model_after;
    struct lam_bench_rates rates;
};

static const char *const epilog =
    "The prompts are token ids, different for each text and the same in every run; end tokens are\n"
    "ignored, so that each text has its N tokens. Floors are bytes over the speeds that `laminar\n"
    "doctor --measure` found on this machine, or over assumed ones, which are then named.\n\n"
    "Examples:\n"
    "  laminar bench generate model.gguf --batch 4 --prompt 128 --gen 64\n"
    "  laminar bench generate model.gguf --device cuda:0 --vram 3GiB --json";

static bool is_gpu(const struct bench *bench)
{
    return bench->planning->devices[0].kind == LAM_DEVICE_GPU;
}

static struct lam_bench_rates rates_of(const struct bench *bench)
{
    const struct lam_planning *planning = bench->planning;
    const struct lam_plan_device *device = &planning->devices[0];

    return (struct lam_bench_rates){.disk = planning->request.host.disk_rate,
        .link = is_gpu(bench) ? device->link_rate : 0,
        .memory = is_gpu(bench) ? device->memory_rate : planning->request.host.memory_rate,
        .disk_assumed = planning->disk_assumed,
        .link_assumed = planning->link_assumed,
        .memory_assumed = planning->memory_assumed};
}

/* The one worker of our own stack. */
static const struct lam_client_worker *worker_of(const struct lam_client_model *model)
{
    return &model->workers[0];
}

static enum lam_status measure(const struct bench *bench, const struct lam_drive *drive,
    struct lam_bench_figures *figures, struct lam_err *err)
{
    const struct lam_client_worker *before = worker_of(&bench->model_before);
    const struct lam_client_worker *after = worker_of(&bench->model_after);
    struct lam_drive_times *times = lam_calloc((size_t)bench->n_texts, sizeof *times);
    struct lam_bench_observed observed = {.times = times,
        .n_texts = (uint32_t)bench->n_texts,
        .began_ns = bench->began_ns,
        .asked_ns = lam_drive_asked_ns(drive),
        .disk_bytes = bench->loader.disk_bytes - bench->loader_before.disk_bytes,
        .disk_at = bench->disk_at,
        .planned_disk_bytes = bench->planning->plan.pool.disk_bytes,
        .planned_memory_bytes = is_gpu(bench) ? 0 : bench->planning->manifest.unit_bytes_total,
        .has_profile = before->has_profile && after->has_profile,
        .before = before->total,
        .after = after->total,
        .passes_before = before->passes,
        .passes_after = after->passes,
        .rates = bench->rates};
    enum lam_status status;

    if (!times)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the figures");
    for (uint32_t i = 0; i < observed.n_texts; i++)
        times[i] = lam_drive_times(drive, i);
    status = lam_bench_figures(&observed, figures, err);
    lam_free(times);
    return status;
}

static double prompt_rate(const struct bench *bench, const struct lam_bench_figures *f)
{
    return f->prompt_s > 0 ? (double)(bench->n_texts * bench->n_prompt) / f->prompt_s : 0;
}

static double of_floor(const struct lam_bench_figures *f)
{
    return f->floor_s > 0 ? f->pass_median_s / f->floor_s : 0;
}

static json_t *memory_json(const struct bench *bench)
{
    const struct lam_client_worker *worker = worker_of(&bench->model_after);
    const struct lam_client_memory *memory = &worker->memory;
    json_t *object = json_object();
    bool exact = false;
    uint64_t peak = bench->watch ? lam_gpu_watch_peak(bench->watch, &exact) : 0;

    if (worker->has_memory)
        json_object_update_new(object,
            json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:i,s:i,s:s}", "cap_bytes",
                (json_int_t)memory->cap_bytes, "planned_bytes", (json_int_t)memory->planned_bytes,
                "measured_bytes", (json_int_t)memory->measured_bytes, "kv_bytes",
                (json_int_t)memory->kv_bytes, "resident_bytes", (json_int_t)memory->resident_bytes,
                "streamed_bytes", (json_int_t)memory->streamed_bytes, "layers", memory->layers,
                "resident_layers", memory->resident_layers, "kv_type", memory->kv_type));
    json_object_set_new(object, "outside_peak_bytes", json_integer((json_int_t)peak));
    json_object_set_new(object, "outside_exact", json_boolean(exact));
    return object;
}

/* What the loader read between two tokens, pass after pass. */
static json_t *each_json(const struct bench *bench, const struct lam_bench_figures *f)
{
    const uint64_t *at = bench->disk_at + f->first;
    json_t *each = json_array();

    for (uint32_t i = 0; i < f->n_passes; i++)
        json_array_append_new(each, json_integer((json_int_t)(at[i + 1] - at[i])));
    return each;
}

static json_t *pass_json(const struct bench *bench, const struct lam_bench_figures *f)
{
    json_t *pass = json_pack("{s:I,s:I,s:f,s:f,s:f,s:f}", "count", (json_int_t)f->n_passes,
        "not_counted", (json_int_t)worker_of(&bench->model_before)->passes, "median_seconds",
        f->pass_median_s, "p10_seconds", f->pass_p10_s, "p90_seconds", f->pass_p90_s, "disk_bytes",
        f->disk_bytes);

    if (bench->disk_at)
        json_object_set_new(pass, "disk_bytes_each", each_json(bench, f));
    if (f->has_profile)
        json_object_set_new(pass, "profile",
            json_pack("{s:f,s:f,s:f,s:f,s:f,s:I,s:I}", "wall_seconds", f->profile.wall_s,
                "disk_wait_seconds", f->profile.disk_wait_s, "link_wait_seconds",
                f->profile.link_wait_s, "compute_seconds", f->profile.compute_s, "copy_seconds",
                f->profile.copy_s, "link_bytes", (json_int_t)f->profile.link_bytes,
                "resident_bytes", (json_int_t)f->profile.resident_bytes));
    json_object_set_new(pass, "floor",
        json_pack("{s:f,s:f,s:f,s:f,s:f,s:b}", "seconds", f->floor_s, "disk_seconds",
            f->disk_floor_s, "link_seconds", f->link_floor_s, "memory_seconds", f->memory_floor_s,
            "pass_of_floor", of_floor(f), "assumed", f->floor_assumed));
    return pass;
}

static enum lam_status print_json(
    const struct bench *bench, const struct lam_bench_figures *f, struct lam_err *err)
{
    const struct lam_plan *plan = &bench->planning->plan;
    const struct lam_loader_stats *loader = &bench->loader;
    json_t *root = lam_json_begin();

    json_object_set_new(root, "model", lam_json_text(bench->model, strlen(bench->model)));
    json_object_set_new(root, "device", json_string(bench->device));
    json_object_set_new(root, "batch", json_integer(bench->n_texts));
    json_object_set_new(root, "prompt", json_integer(bench->n_prompt));
    json_object_set_new(root, "gen", json_integer(bench->n_generate));
    json_object_set_new(
        root, "ready_seconds", json_real((double)(bench->ready_ns - bench->began_ns) / 1e9));
    json_object_set_new(root, "first_token_seconds", json_real(f->first_token_s));
    json_object_set_new(root, "prompt_seconds", json_real(f->prompt_s));
    json_object_set_new(root, "prompt_tokens_per_second", json_real(prompt_rate(bench, f)));
    json_object_set_new(root, "tokens_per_second", json_real(f->tokens_per_s));
    json_object_set_new(root, "pass", pass_json(bench, f));
    json_object_set_new(root, "memory", memory_json(bench));
    json_object_set_new(root, "plan",
        json_pack("{s:f,s:I,s:I,s:I,s:I,s:i,s:i}", "pass_seconds", plan->pass_seconds,
            "device_bytes", (json_int_t)plan->arenas[0].total_bytes, "streamed_bytes",
            (json_int_t)plan->arenas[0].streamed_bytes, "disk_bytes",
            (json_int_t)plan->pool.disk_bytes, "unkept_bytes", (json_int_t)plan->pool.unkept_bytes,
            "kept_units", plan->pool.n_kept, "units", plan->n_units));
    json_object_set_new(root, "ceilings",
        json_pack("{s:f,s:f,s:f,s:s}", "disk_rate", bench->rates.disk, "link_rate",
            bench->rates.link, "memory_rate", bench->rates.memory, "sources",
            bench->planning->sources));
    json_object_set_new(root, "pool",
        json_pack("{s:I,s:f,s:I,s:s,s:b,s:s}", "bytes", (json_int_t)loader->pool_bytes,
            "ready_seconds", loader->pool_ready_seconds, "used_bytes",
            (json_int_t)loader->pool_used_bytes, "engine", loader->engine, "direct", loader->direct,
            "pages", loader->pages));
    return lam_json_print(root, err);
}

static void print_memory(const struct bench *bench)
{
    const struct lam_client_worker *worker = worker_of(&bench->model_after);
    char planned[24];
    char measured[24];
    char outside[24];
    bool exact = false;

    if (!worker->has_memory)
        return;
    printf("memory     %s planned, %s measured by the worker",
        lam_size_format(worker->memory.planned_bytes, planned, sizeof planned),
        lam_size_format(worker->memory.measured_bytes, measured, sizeof measured));
    if (bench->watch)
        printf(", %s at most from outside%s",
            lam_size_format(lam_gpu_watch_peak(bench->watch, &exact), outside, sizeof outside),
            exact ? "" : " (of the whole GPU, less what was there)");
    printf("\n");
}

static void print_passes(const struct bench *bench, const struct lam_bench_figures *f)
{
    char disk[24];
    char planned[24];
    char pool[24];

    printf("pass       %.4f s median, %.4f to %.4f s for 8 of 10, of %" PRIu32
           " passes; planned %.4f s\n",
        f->pass_median_s, f->pass_p10_s, f->pass_p90_s, f->n_passes,
        bench->planning->plan.pass_seconds);
    printf("           not counted: the first %" PRIu64 ", with prompts, which fill the pool\n",
        worker_of(&bench->model_before)->passes);
    printf("floor      %.4f s (disk %.4f, link %.4f, memory %.4f): a pass takes %.2f of it\n",
        f->floor_s, f->disk_floor_s, f->link_floor_s, f->memory_floor_s, of_floor(f));
    if (f->floor_assumed)
        printf(
            "           but its speed is only assumed: `laminar doctor --measure` measures it\n");
    printf("           at %s\n", bench->planning->sources);
    if (f->has_profile)
        printf("waiting    %.4f s for the disk, %.4f s for the link; computing %.4f s\n",
            f->profile.disk_wait_s, f->profile.link_wait_s, f->profile.compute_s);
    printf("generated  %.2f tokens/s\n", f->tokens_per_s);
    printf("disk       %s in a pass, planned %s; %.2f GB/s; pool %s (%s%s)\n",
        lam_size_format((uint64_t)f->disk_bytes, disk, sizeof disk),
        lam_size_format(bench->planning->plan.pool.disk_bytes, planned, sizeof planned),
        f->disk_bytes * f->n_passes / f->window_s / 1e9,
        lam_size_format(bench->loader.pool_bytes, pool, sizeof pool), bench->loader.engine,
        bench->loader.direct ? ", direct" : "");
}

static void print_text(const struct bench *bench, const struct lam_bench_figures *f)
{
    printf("load       %" PRId64 " at once on %s, %" PRId64 " prompt tokens, %" PRId64
           " generated tokens each\n",
        bench->n_texts, bench->device, bench->n_prompt, bench->n_generate);
    printf("start      ready after %.2f s, first token after %.2f s\n",
        (double)(bench->ready_ns - bench->began_ns) / 1e9, f->first_token_s);
    printf("prompt     %.3f s, %.1f tokens/s\n", f->prompt_s, prompt_rate(bench, f));
    if (f->n_passes > 0)
        print_passes(bench, f);
    else
        printf("pass       no pass had all texts in it; give more --gen\n");
    print_memory(bench);
}

static void cancel_drive(void *drive)
{
    lam_drive_cancel(drive);
}

/* What the loader has read by each token of the first text. The time of an answer is nothing beside
 * a pass that reads the disk; others are not asked for. */
static enum lam_status watch_disk(
    struct bench *bench, struct lam_session *session, struct lam_drive *drive, struct lam_err *err)
{
    uint32_t seen = 0, n;

    if (bench->planning->plan.pool.disk_bytes == 0)
        return LAM_OK;
    bench->disk_at = lam_calloc((size_t)bench->n_generate, sizeof *bench->disk_at);
    if (!bench->disk_at)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the figures");
    while ((n = lam_drive_wait_more(drive, seen)) > seen) {
        enum lam_status status = lam_progress_stats(session->progress, &bench->loader, err);

        if (status)
            return status;
        while (seen < n)
            bench->disk_at[seen++] = bench->loader.disk_bytes;
    }
    return LAM_OK;
}

/* From the first token of the last text on: the window. */
static enum lam_status observe(
    struct bench *bench, struct lam_session *session, struct lam_drive *drive, struct lam_err *err)
{
    enum lam_status status;

    lam_drive_wait_first(drive);
    status = lam_progress_stats(session->progress, &bench->loader_before, err);
    if (!status)
        status = lam_client_get_model(session->client, ASK_TIMEOUT_NS, &bench->model_before, err);
    if (!status)
        status = watch_disk(bench, session, drive, err);
    if (!status)
        status = lam_drive_wait(drive, err);
    if (!status)
        status = lam_progress_stats(session->progress, &bench->loader, err);
    if (!status)
        status = lam_client_get_model(session->client, ASK_TIMEOUT_NS, &bench->model_after, err);
    return status;
}

static enum lam_status drive_session(
    struct bench *bench, struct lam_session *session, struct lam_err *err)
{
    const struct lam_drive_config config = {.target = lam_stack_gateway(session->stack),
        .n_requests = (uint32_t)bench->n_texts,
        .n_prompt = (uint32_t)bench->n_prompt,
        .n_generate = (uint32_t)bench->n_generate,
        .n_vocab = (uint32_t)session->model.n_vocab};
    struct lam_drive *drive = NULL;
    struct lam_bench_figures figures = {0};
    enum lam_status status;

    lam_progress_hide(session->progress);
    bench->ready_ns = lam_now_ns();
    status = lam_drive_start(&config, &drive, err);
    if (status)
        return status;
    lam_stack_on_end(session->stack, cancel_drive, drive);
    status = observe(bench, session, drive, err);
    lam_stack_on_end(session->stack, NULL, NULL);
    if (!status)
        status = measure(bench, drive, &figures, err);
    if (!status && bench->json)
        status = print_json(bench, &figures, err);
    else if (!status)
        print_text(bench, &figures);
    lam_drive_destroy(drive);
    return status;
}

static int execute(
    struct bench *bench, const struct lam_command_env *env, const struct lam_run_plan *plan)
{
    struct lam_session_config config = {
        .model = bench->model,
        .runtime_dir = env->runtime_dir,
        .ops = bench->trace != NULL,
        .record = bench->trace != NULL,
        .options = &bench->stack,
        .plan = plan,
    };
    struct lam_session session;
    struct lam_err err = {0};
    enum lam_status status;
    int64_t index;
    int exit_code;

    if (strncmp(plan->device, CUDA_PREFIX, strlen(CUDA_PREFIX)) == 0 &&
        lam_int_parse(plan->device + strlen(CUDA_PREFIX), 0, UINT32_MAX, &index))
        bench->watch = lam_gpu_watch_start(NULL, (uint32_t)index);
    status = lam_session_open(&config, &session, &err);
    if (!status)
        status = drive_session(bench, &session, &err);
    if (!status && bench->trace)
        status = lam_session_write_trace(&session, bench->trace, &err);
    exit_code = lam_session_close(&session, status ? &err : NULL);
    lam_gpu_watch_stop(bench->watch);
    return exit_code;
}

static enum lam_status check_length(
    const struct bench *bench, const struct lam_plan *plan, struct lam_err *err)
{
    if (bench->n_prompt + bench->n_generate <= plan->n_ctx)
        return LAM_OK;
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "--prompt %lld and --gen %lld are more than the %" PRIu32
        " tokens of the context: give a larger --ctx",
        (long long)bench->n_prompt, (long long)bench->n_generate, plan->n_ctx);
}

int lam_bench_generate(const struct lam_command_env *env, int argc, char **argv)
{
    struct bench bench = {.n_prompt = 16, .n_generate = 32, .stack = lam_stack_defaults()};
    struct lam_run_plan plan;
    struct lam_err err = {0};
    struct lam_flag flags[4 + LAM_STACK_FLAGS + 1] = {
        {"prompt", 0, LAM_FLAG_INT, &bench.n_prompt, "N", "Tokens of each prompt.", 1, 1 << 20,
            NULL, NULL},
        {"gen", 0, LAM_FLAG_INT, &bench.n_generate, "N", "Tokens generated of each text.", 2,
            1 << 20, NULL, NULL},
        {"trace", 0, LAM_FLAG_TEXT, &bench.trace, "FILE",
            "What the services do when, from their start to the end; opens in Perfetto.", 0, 0,
            NULL, NULL},
        {"json", 0, LAM_FLAG_BOOL, &bench.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
    };
    const struct lam_flag_program program = {
        .usage = "laminar bench generate MODEL [flags]",
        .summary = "Generates text with the services that `run` starts, several at once, and "
                   "measures: time of a pass and its share of the machine's ceilings, tokens per "
                   "second, time to the first token, memory.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    lam_stack_add_flags(&bench.stack, flags + 4);
    if (!lam_command_begin(&program, argc, argv, &bench.model, 1, &exit_code))
        return exit_code;
    if (bench.trace && lam_trace_check_path(bench.trace, &err))
        return lam_command_usage(&err);
    bench.began_ns = lam_now_ns();
    exit_code = lam_stack_plan(&bench.stack, bench.model, env->home, 1, &plan);
    if (exit_code == LAM_EXIT_OK && check_length(&bench, &plan.planning.plan, &err)) {
        exit_code = lam_command_usage(&err);
    } else if (exit_code == LAM_EXIT_OK) {
        bench.planning = &plan.planning;
        bench.device = plan.device;
        bench.n_texts = plan.planning.plan.n_seqs;
        bench.rates = rates_of(&bench);
        exit_code = execute(&bench, env, &plan);
    }
    lam_run_plan_done(&plan);
    lam_free(bench.disk_at);
    return exit_code;
}
