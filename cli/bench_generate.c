/*
 * bench_generate: `laminar bench generate`, what a model does on this machine: starts the services
 * as `run` does, drives several generations at once through the gateway, and says when tokens came.
 *
 * A pass gives one token to every generation, so between the first token of the last one to begin
 * and the last token of the first one to end, the gaps between one generation's tokens are the
 * passes: that is the window in which all figures of generation are taken.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/drive.h"
#include "cli/json.h"
#include "cli/session.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/size.h"

struct bench {
    const char *model;
    struct lam_stack_options stack;
    int64_t n_requests;
    int64_t n_prompt;
    int64_t n_generate;
    bool json;
    uint64_t began_ns; /* before anything is started */
    uint64_t ready_ns;
    struct lam_loader_stats before; /* the window */
    struct lam_loader_stats after;
};

struct figures {
    double ready_s;       /* from the start until text could be asked for */
    double first_token_s; /* from the start to the first token of all */
    double prompt_s;      /* from asking until every generation had a token */
    double window_s;
    uint32_t n_passes; /* in the window; 0: too few tokens to have one */
    double pass_median_s;
    double pass_p10_s;
    double pass_p90_s;
    double tokens_per_s;
    uint64_t disk_bytes; /* in the window */
};

static const char *const epilog =
    "The prompts are token ids, different for each text and the same in every run; end tokens are\n"
    "ignored, so that each text has its N tokens.\n\n"
    "Examples:\n"
    "  laminar bench generate model.gguf --batch 4 --prompt 128 --gen 64\n"
    "  laminar bench generate model.gguf --ram 2GiB --json\n";

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / (double)LAM_NS_PER_S : 0;
}

static int compare_reals(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;

    return (left > right) - (left < right);
}

/* The gaps between the tokens that one request got in [begin_ns, end_ns]. */
static enum lam_status measure_passes(struct lam_drive_times times, uint64_t begin_ns,
    uint64_t end_ns, struct figures *figures, struct lam_err *err)
{
    double *gaps = lam_calloc(times.n_tokens, sizeof *gaps);
    uint32_t n = 0;

    if (!gaps)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the figures");
    for (uint32_t i = 1; i < times.n_tokens; i++)
        if (times.token_ns[i - 1] >= begin_ns && times.token_ns[i] <= end_ns)
            gaps[n++] = seconds(times.token_ns[i - 1], times.token_ns[i]);
    qsort(gaps, n, sizeof *gaps, compare_reals);
    figures->n_passes = n;
    if (n > 0) {
        figures->pass_median_s = gaps[n / 2];
        figures->pass_p10_s = gaps[n / 10];
        figures->pass_p90_s = gaps[n - 1 - n / 10];
    }
    lam_free(gaps);
    return LAM_OK;
}

static enum lam_status measure(const struct bench *bench, const struct lam_drive *drive,
    struct figures *figures, struct lam_err *err)
{
    uint64_t first_ns = UINT64_MAX;
    uint64_t begin_ns = 0;
    uint64_t end_ns = UINT64_MAX;
    uint64_t n_tokens = 0;

    for (uint32_t i = 0; i < bench->n_requests; i++) {
        struct lam_drive_times times = lam_drive_times(drive, i);
        uint64_t first = times.token_ns[0];
        uint64_t last = times.token_ns[times.n_tokens - 1];
        first_ns = first < first_ns ? first : first_ns;
        begin_ns = first > begin_ns ? first : begin_ns;
        end_ns = last < end_ns ? last : end_ns;
    }
    for (uint32_t i = 0; i < bench->n_requests; i++) {
        struct lam_drive_times times = lam_drive_times(drive, i);
        for (uint32_t j = 0; j < times.n_tokens; j++)
            n_tokens += times.token_ns[j] > begin_ns && times.token_ns[j] <= end_ns;
    }
    figures->ready_s = seconds(bench->began_ns, bench->ready_ns);
    figures->first_token_s = seconds(bench->began_ns, first_ns);
    figures->prompt_s = seconds(bench->ready_ns, begin_ns);
    figures->window_s = seconds(begin_ns, end_ns);
    if (figures->window_s > 0)
        figures->tokens_per_s = (double)n_tokens / figures->window_s;
    figures->disk_bytes = bench->after.disk_bytes - bench->before.disk_bytes;
    return measure_passes(lam_drive_times(drive, 0), begin_ns, end_ns, figures, err);
}

static double per_pass(const struct figures *figures, uint64_t bytes)
{
    return figures->n_passes > 0 ? (double)bytes / figures->n_passes : 0;
}

static double prompt_rate(const struct bench *bench, const struct figures *figures)
{
    return figures->prompt_s > 0 ? (double)(bench->n_requests * bench->n_prompt) / figures->prompt_s
                                 : 0;
}

static enum lam_status print_json(
    const struct bench *bench, const struct figures *f, struct lam_err *err)
{
    json_t *root = lam_json_begin();

    json_object_set_new(root, "model", lam_json_text(bench->model, strlen(bench->model)));
    json_object_set_new(root, "batch", json_integer(bench->n_requests));
    json_object_set_new(root, "prompt", json_integer(bench->n_prompt));
    json_object_set_new(root, "gen", json_integer(bench->n_generate));
    json_object_set_new(root, "ready_seconds", json_real(f->ready_s));
    json_object_set_new(root, "first_token_seconds", json_real(f->first_token_s));
    json_object_set_new(root, "prompt_seconds", json_real(f->prompt_s));
    json_object_set_new(root, "prompt_tokens_per_second", json_real(prompt_rate(bench, f)));
    json_object_set_new(root, "tokens_per_second", json_real(f->tokens_per_s));
    json_object_set_new(root, "pass",
        json_pack("{s:I,s:f,s:f,s:f,s:f}", "count", (json_int_t)f->n_passes, "median_seconds",
            f->pass_median_s, "p10_seconds", f->pass_p10_s, "p90_seconds", f->pass_p90_s,
            "disk_bytes", per_pass(f, f->disk_bytes)));
    json_object_set_new(root, "pool",
        json_pack("{s:I,s:I,s:s,s:b,s:s}", "bytes", (json_int_t)bench->after.pool_bytes,
            "used_bytes", (json_int_t)bench->after.pool_used_bytes, "engine", bench->after.engine,
            "direct", bench->after.direct, "pages", bench->after.pages));
    return lam_json_print(root, err);
}

static void print_text(const struct bench *bench, const struct figures *f)
{
    char disk[24];
    char pool[24];

    printf("load       %lld at once, %lld prompt tokens, %lld generated tokens each\n",
        (long long)bench->n_requests, (long long)bench->n_prompt, (long long)bench->n_generate);
    printf(
        "start      ready after %.2f s, first token after %.2f s\n", f->ready_s, f->first_token_s);
    printf("prompt     %.3f s, %.1f tokens/s\n", f->prompt_s, prompt_rate(bench, f));
    if (f->n_passes > 0) {
        printf("pass       %.4f s median, %.4f to %.4f s for 8 of 10, of %u passes\n",
            f->pass_median_s, f->pass_p10_s, f->pass_p90_s, f->n_passes);
        printf("generated  %.2f tokens/s\n", f->tokens_per_s);
        printf("disk       %s in a pass, %.2f GB/s; pool %s (%s%s)\n",
            lam_size_format((uint64_t)per_pass(f, f->disk_bytes), disk, sizeof disk),
            f->window_s > 0 ? (double)f->disk_bytes / f->window_s / 1e9 : 0,
            lam_size_format(bench->after.pool_bytes, pool, sizeof pool), bench->after.engine,
            bench->after.direct ? ", direct" : "");
    } else {
        printf("pass       no pass had all texts in it; give more --gen\n");
    }
}

static void cancel_drive(void *drive)
{
    lam_drive_cancel(drive);
}

static enum lam_status drive_session(
    struct bench *bench, struct lam_session *session, struct lam_err *err)
{
    const struct lam_drive_config config = {.target = lam_stack_gateway(session->stack),
        .n_requests = (uint32_t)bench->n_requests,
        .n_prompt = (uint32_t)bench->n_prompt,
        .n_generate = (uint32_t)bench->n_generate,
        .n_vocab = (uint32_t)session->model.n_vocab};
    struct lam_drive *drive = NULL;
    struct figures figures = {0};
    enum lam_status status;

    lam_progress_hide(session->progress);
    bench->ready_ns = lam_now_ns();
    status = lam_drive_start(&config, &drive, err);
    if (status)
        return status;
    lam_stack_on_end(session->stack, cancel_drive, drive);
    lam_drive_wait_first(drive);
    status = lam_progress_stats(session->progress, &bench->before, err);
    if (!status)
        status = lam_drive_wait(drive, err);
    if (!status)
        status = lam_progress_stats(session->progress, &bench->after, err);
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
        .options = &bench->stack,
        .plan = plan,
    };
    struct lam_session session;
    struct lam_err err = {0};
    enum lam_status status;

    status = lam_session_open(&config, &session, &err);
    if (!status)
        status = drive_session(bench, &session, &err);
    return lam_session_close(&session, status ? &err : NULL);
}

int lam_bench_generate(const struct lam_command_env *env, int argc, char **argv)
{
    struct bench bench = {.n_prompt = 16, .n_generate = 32, .stack = lam_stack_defaults()};
    struct lam_run_plan plan;
    struct lam_flag flags[3 + LAM_STACK_FLAGS + 1] = {
        {"prompt", 0, LAM_FLAG_INT, &bench.n_prompt, "N", "Tokens of each prompt.", 1, 1 << 20,
            NULL, NULL},
        {"gen", 0, LAM_FLAG_INT, &bench.n_generate, "N", "Tokens generated of each text.", 2,
            1 << 20, NULL, NULL},
        {"json", 0, LAM_FLAG_BOOL, &bench.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
    };
    const struct lam_flag_program program = {
        .usage = "laminar bench generate MODEL [flags]",
        .summary = "Generates text with the services that `run` starts, several at once, and "
                   "measures: time of a pass, tokens per second, time to the first token.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    lam_stack_add_flags(&bench.stack, flags + 3);
    if (!lam_command_begin(&program, argc, argv, &bench.model, 1, &exit_code))
        return exit_code;
    bench.began_ns = lam_now_ns();
    exit_code = lam_stack_plan(&bench.stack, bench.model, env->home, 1, &plan);
    if (exit_code == LAM_EXIT_OK) {
        bench.n_requests = plan.planning.plan.n_seqs;
        exit_code = execute(&bench, env, &plan);
    }
    lam_run_plan_done(&plan);
    return exit_code;
}
