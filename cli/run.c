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

#define PROMPT_BYTES_MAX (8 * LAM_MIB)

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
    return json_pack("{s:s,s:b,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "engine", stats->engine, "direct",
        stats->direct, "pages", stats->pages, "pool_bytes", (json_int_t)stats->pool_bytes,
        "pool_used_bytes", (json_int_t)stats->pool_used_bytes, "disk_bytes",
        (json_int_t)stats->disk_bytes, "disk_reads", (json_int_t)stats->disk_reads, "units_loaded",
        (json_int_t)stats->units_loaded, "units_hit", (json_int_t)stats->units_hit, "units_granted",
        (json_int_t)stats->units_granted);
}

/* What only --json shows, or NULL. */
static json_t *extra_json(const struct run *run, struct lam_session *session)
{
    const struct lam_client_worker *worker = &session->model.workers[0];
    struct lam_loader_stats stats;
    struct lam_err err = {0};
    json_t *extra;

    if (!run->answer.json || lam_progress_stats(session->progress, &stats, &err))
        return NULL;
    extra = json_object();
    json_object_set_new(extra, "loader", loader_json(&stats));
    if (run->profile && !lam_session_refresh(session, &err) && session->model.n_workers > 0) {
        json_object_set_new(extra, "memory", lam_usage_memory_json(worker));
        json_object_set_new(extra, "profile", lam_usage_profile_json(worker, &worker->total));
        json_object_set_new(extra, "last_pass", lam_usage_profile_json(worker, &worker->last));
    }
    return extra;
}

/* A cap that did not hold is told, whatever else is wanted. */
static void check_cap(struct lam_session *session)
{
    struct lam_err err = {0};

    if (!lam_session_refresh(session, &err) && session->model.n_workers > 0)
        lam_usage_warn(stderr, &session->model.workers[0]);
}

/* --profile: the plan and what came of it, on stderr. */
static void print_profile(struct lam_session *session, const struct lam_client_answer *answer)
{
    struct lam_loader_stats stats = {.disk_bytes = UINT64_MAX};
    struct lam_err err = {0};
    double pass_s = 0;

    if (lam_session_refresh(session, &err) || session->model.n_workers == 0)
        return; /* it ended well, and is ending */
    lam_ignore(lam_progress_stats(session->progress, &stats, &err), "then it is not printed");
    if (answer->completion_tokens > 1)
        pass_s = answer->decode_seconds / (answer->completion_tokens - 1);
    fprintf(stderr, "\n");
    lam_session_print_plan(session, pass_s);
    fprintf(stderr, "profile\n");
    lam_usage_print_passes(stderr, &session->model.workers[0], stats.disk_bytes);
}

/* The first text takes the progress bar off the terminal. */
struct output {
    struct lam_progress *progress;
    struct lam_answer_options *options;
};

static bool write_text(void *arg, const char *text, size_t n_bytes)
{
    const struct output *output = arg;

    lam_progress_hide(output->progress);
    return lam_answer_write_text(output->options, text, n_bytes);
}

static enum lam_status generate_once(
    struct run *run, struct lam_session *session, bool chat, struct lam_err *err)
{
    const char *prompt = run->answer.prompt ? run->answer.prompt : run->prompt.data;
    struct lam_client_message messages[2] = {{"system", run->answer.system}, {"user", prompt}};
    struct lam_client_request request = lam_answer_request(&run->answer);
    struct output output = {session->progress, &run->answer};
    struct lam_client_answer answer = {0};
    size_t first = run->answer.system ? 0 : 1;
    enum lam_status status;

    request.text = chat ? NULL : prompt;
    request.messages = messages + first;
    request.n_messages = 2 - first;
    status = lam_client_generate(session->client, &request, write_text, &output, &answer, err);
    lam_progress_hide(session->progress);
    if (!status)
        status = lam_answer_finish(&run->answer, &answer, extra_json(run, session), err);
    if (!status && run->profile && !run->answer.json)
        print_profile(session, &answer);
    if (!status)
        check_cap(session);
    lam_client_answer_done(&answer);
    return status;
}

static enum lam_status use_session(
    struct run *run, struct lam_session *session, struct lam_err *err)
{
    bool has_template = session->model.chat_template[0] != '\0';
    bool chat = run->answer.chat || (has_template && !run->answer.raw);

    if (chat && !has_template)
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "the model has no chat template that is built in; use --raw");
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

int lam_command_run(const struct lam_command_env *env, int argc, char **argv)
{
    struct run run = {
        .answer = lam_answer_defaults(),
        .stack = lam_stack_defaults(),
        .prompt = LAM_BUF(PROMPT_BYTES_MAX),
    };
    struct lam_flag flags[2 + LAM_ANSWER_FLAGS + LAM_STACK_FLAGS + 1] = {
        {"profile", 0, LAM_FLAG_BOOL, &run.profile, NULL,
            "At the end: the plan, what was measured, and what the passes waited for.", 0, 0, NULL,
            NULL},
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

    lam_answer_add_flags(&run.answer, flags + 2);
    lam_stack_add_flags(&run.stack, flags + 2 + LAM_ANSWER_FLAGS);
    if (!lam_command_begin(&program, argc, argv, &run.model, 1, &exit_code))
        return exit_code;
    run.interactive = !run.answer.prompt && isatty(STDIN_FILENO) == 1;
    if (lam_answer_check(&run.answer, &err) ||
        (run.trace && lam_trace_check_path(run.trace, &err)) ||
        (!run.answer.prompt && !run.interactive && lam_answer_read_prompt(&run.prompt, &err)))
        exit_code = lam_command_usage(&err);
    else
        exit_code = lam_stack_plan(&run.stack, run.model, env->home, 1, &plan);
    if (exit_code == LAM_EXIT_OK)
        exit_code = execute(&run, env, &plan);
    lam_run_plan_done(&plan);
    lam_buf_done(&run.prompt);
    return exit_code;
}
