/*
 * run: `laminar run`, text from a model on this machine. Starts the three services as child
 * processes (the same code path as in production), generates, and leaves nothing behind.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/answer.h"
#include "cli/command.h"
#include "cli/session.h"
#include "cli/talk.h"
#include "cli/trace_merge.h"
#include "cli/usage.h"
#include "common/size.h"
#include "model/chat.h"

#define PROMPT_BYTES_MAX (8 * LAM_MIB)
#define RUN_FLAGS 2 /* of its own, beside those of the answer and the stack */

struct run {
    const char *model;
    struct lam_answer_options answer;
    struct lam_stack_options stack;
    const char *trace;     /* file; NULL: none */
    struct lam_buf prompt; /* from stdin */
    bool interactive;
    bool profile;
};

static const char *const epilog =
    "Examples:\n"
    "  laminar run model.gguf -p \"Why is the sky blue?\"\n"
    "  laminar run model.gguf --raw -p \"The capital of France is\" -n 20\n"
    "  laminar run model.gguf --ram 2GiB < prompt.txt\n"
    "  laminar run model.gguf --vram 3GiB --profile -p \"Hello\"\n"
    "  laminar run model.gguf                     (a conversation, at a terminal)";

static json_t *loader_json(const struct lam_loader_stats *stats)
{
    return json_pack("{s:s,s:b,s:s,s:I,s:f,s:I,s:I,s:I,s:I,s:I,s:I}", "engine", stats->engine,
        "direct", stats->direct, "pages", stats->pages, "pool_bytes", (json_int_t)stats->pool_bytes,
        "pool_ready_seconds", stats->pool_ready_seconds, "pool_used_bytes",
        (json_int_t)stats->pool_used_bytes, "disk_bytes", (json_int_t)stats->disk_bytes,
        "disk_reads", (json_int_t)stats->disk_reads, "units_loaded",
        (json_int_t)stats->units_loaded, "units_hit", (json_int_t)stats->units_hit, "units_granted",
        (json_int_t)stats->units_granted);
}

/* What only --json shows, or NULL. */
static json_t *extra_json(
    const struct run *run, const struct lam_session *session, const struct lam_session_watch *watch)
{
    const struct lam_client_worker *worker = &session->model.workers[0];
    struct lam_plan_report report;
    json_t *extra, *plan;

    if (!run->answer.json || !watch->counted)
        return NULL;
    extra = json_object();
    plan = json_object();
    report = lam_session_report(session, watch);
    lam_plan_report_json(&report, plan);
    json_object_set_new(extra, "loader", loader_json(&watch->after));
    json_object_set_new(extra, "plan", plan);
    if (run->profile && session->model.n_workers > 0) {
        json_object_set_new(extra, "memory", lam_usage_memory_json(worker));
        json_object_set_new(extra, "profile", lam_usage_profile_json(worker, &worker->total));
        json_object_set_new(extra, "last_pass", lam_usage_profile_json(worker, &worker->last));
    }
    return extra;
}

/* Who gives a budget wants to see what becomes of it. */
static bool wants_table(const struct run *run)
{
    return run->profile || run->stack.plan.vram || strcmp(run->stack.plan.ram, "auto") != 0;
}

/* A machine that has to find its memory first is slow to start, and nothing else tells why. */
static void print_pool(const struct lam_loader_stats *stats)
{
    char ready[24];

    fprintf(stderr, "  pool     %s of memory given by the machine in %.2f s, pages %s\n",
        lam_size_format(stats->pool_ready_bytes, ready, sizeof ready), stats->pool_ready_seconds,
        stats->pages);
}

/* What came of the plan, on stderr: its table, or a line where nobody set a budget; --profile adds
 * the passes. A cap that did not hold is told in any case. */
static void print_measured(
    const struct run *run, const struct lam_session *session, const struct lam_session_watch *watch)
{
    struct lam_plan_report report = lam_session_report(session, watch);

    if (session->model.n_workers == 0)
        return; /* it ended well, and is ending */
    if (wants_table(run) && !run->answer.json) {
        fprintf(stderr, "\n");
        lam_plan_report_text(&report);
    } else {
        lam_plan_report_line(&report);
    }
    if (run->profile && !run->answer.json) {
        fprintf(stderr, "profile\n");
        lam_usage_print_passes(stderr, &session->model.workers[0],
            watch->counted ? watch->after.disk_bytes : UINT64_MAX);
        if (watch->counted)
            print_pool(&watch->after);
    }
    lam_usage_warn(stderr, &session->model.workers[0]);
}

/* The first text takes the progress bar off the terminal, and begins what is watched: the passes
 * before it were the prompt's. */
struct output {
    struct lam_progress *progress;
    struct lam_answer_options *options;
    bool begun;
    struct lam_session_watch watch;
};

static bool write_text(void *arg, const char *text, size_t n_bytes)
{
    struct output *output = arg;
    struct lam_err err = {0};

    lam_progress_hide(output->progress);
    if (!output->begun)
        output->watch.counted =
            lam_progress_stats(output->progress, &output->watch.before, &err) == LAM_OK;
    output->begun = true;
    return lam_answer_write_text(output->options, text, n_bytes);
}

/* Behind the last text. */
static void end_watch(
    struct output *output, struct lam_session *session, const struct lam_client_answer *answer)
{
    struct lam_session_watch *watch = &output->watch;
    struct lam_err err = {0};

    if (lam_session_refresh(session, &err))
        session->model.n_workers = 0;
    if (lam_progress_stats(output->progress, &watch->after, &err))
        watch->counted = false;
    watch->n_passes = answer->completion_tokens - 1;
    if (watch->n_passes > 0)
        watch->pass_s = answer->decode_seconds / watch->n_passes;
}

static enum lam_status generate_once(
    struct run *run, struct lam_session *session, bool chat, struct lam_err *err)
{
    const char *prompt = run->answer.prompt ? run->answer.prompt : run->prompt.data;
    struct lam_client_message messages[2] = {{"system", run->answer.system}, {"user", prompt}};
    struct lam_client_request request = lam_answer_request(&run->answer);
    struct output output = {.progress = session->progress, .options = &run->answer};
    struct lam_client_answer answer = {0};
    size_t first = run->answer.system ? 0 : 1;
    enum lam_status status;

    request.text = chat ? NULL : prompt;
    request.messages = messages + first;
    request.n_messages = 2 - first;
    status = lam_client_generate(session->client, &request, write_text, &output, &answer, err);
    lam_progress_hide(session->progress);
    if (!status) {
        end_watch(&output, session, &answer);
        status =
            lam_answer_finish(&run->answer, &answer, extra_json(run, session, &output.watch), err);
    }
    if (!status)
        print_measured(run, session, &output.watch);
    lam_client_answer_done(&answer);
    return status;
}

static enum lam_status use_session(
    struct run *run, struct lam_session *session, struct lam_err *err)
{
    bool has_template = session->model.chat_template[0] != '\0';
    bool chat = run->answer.chat || (has_template && !run->answer.raw);

    if (run->interactive) {
        lam_progress_hide(session->progress);
        return lam_talk(session, &run->answer, chat, err);
    }
    return generate_once(run, session, chat, err);
}

static int execute(
    struct run *run, const struct lam_command_env *env, const struct lam_run_plan *plan)
{
    struct lam_session_config config = {
        .model = run->model,
        .runtime_dir = env->runtime_dir,
        .ops = run->trace != NULL,
        .record = run->trace != NULL,
        .prompt = run->answer.prompt ? run->answer.prompt : run->prompt.data,
        .options = &run->stack,
        .plan = plan,
    };
    struct lam_session session;
    struct lam_err err = {0};
    enum lam_status status = lam_session_open(&config, &session, &err);

    if (!status)
        status = use_session(run, &session, &err);
    if (!status && run->trace)
        status = lam_session_write_trace(&session, run->trace, &err);
    return lam_session_close(&session, status ? &err : NULL);
}

/* The gateway would refuse these too, after the model has been read. */
static enum lam_status check_request(
    const struct run *run, const struct lam_planning *planning, struct lam_err *err)
{
    const struct lam_answer_int *most = &run->answer.max_tokens;
    enum lam_chat_template chat = LAM_CHAT_NONE;

    if (most->set && most->value > planning->plan.n_ctx)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--max-tokens is %lld, and the context has %u tokens: give a larger --ctx, or leave it "
            "out for all that there is room for",
            (long long)most->value, (unsigned)planning->plan.n_ctx);
    if (run->answer.chat &&
        (lam_chat_detect(planning->file.gguf, &chat, NULL) || chat == LAM_CHAT_NONE))
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "--chat: the model has no chat template that is built in; use --raw");
    return LAM_OK;
}

int lam_command_run(const struct lam_command_env *env, int argc, char **argv)
{
    struct run run = {
        .answer = lam_answer_defaults(),
        .stack = lam_stack_defaults(),
        .prompt = LAM_BUF(PROMPT_BYTES_MAX),
    };
    struct lam_flag flags[LAM_ANSWER_FLAGS + RUN_FLAGS + LAM_STACK_FLAGS + 1] = {0};
    const struct lam_flag own[RUN_FLAGS] = {
        {"profile", 0, LAM_FLAG_BOOL, &run.profile, NULL,
            "At the end, besides the plan and what was measured (shown with --vram and --ram as "
            "well): what the passes waited for.",
            0, 0, NULL, NULL},
        {"trace", 0, LAM_FLAG_TEXT, &run.trace, "FILE",
            "What the services do when, from their start to the end of the answer; opens in "
            "Perfetto.",
            0, 0, NULL, NULL},
    };
    const struct lam_flag_program program = {
        .usage = "laminar run MODEL [-p PROMPT] [flags]",
        .summary = "Generates text with a GGUF model on this machine. The text, and nothing else, "
                   "goes to standard output.",
        .flags = flags,
        .epilog = epilog,
    };
    struct lam_run_plan plan = {0};
    struct lam_err err = {0};
    int exit_code;

    lam_answer_add_flags(&run.answer, flags);
    memcpy(flags + LAM_ANSWER_FLAGS, own, sizeof own);
    lam_stack_add_flags(&run.stack, flags + LAM_ANSWER_FLAGS + RUN_FLAGS);
    if (!lam_command_begin(&program, argc, argv, &run.model, 1, &exit_code))
        return exit_code;
    run.interactive = !run.answer.prompt && isatty(STDIN_FILENO) == 1;
    if (lam_answer_check(&run.answer, &err) ||
        (run.trace && lam_trace_check_path(run.trace, &err)) ||
        (!run.answer.prompt && !run.interactive && lam_answer_read_prompt(&run.prompt, &err)))
        exit_code = lam_command_usage(&err);
    else
        exit_code = lam_stack_plan(&run.stack, run.model, env->home, 1, &plan);
    if (exit_code == LAM_EXIT_OK && check_request(&run, &plan.planning, &err))
        exit_code = lam_command_usage(&err);
    else if (exit_code == LAM_EXIT_OK)
        exit_code = execute(&run, env, &plan);
    lam_run_plan_done(&plan);
    lam_buf_done(&run.prompt);
    return exit_code;
}
