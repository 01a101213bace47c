/* session: see session.h. */
#include "cli/session.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/launch.h"
#include "cli/trace_merge.h"
#include "common/clock.h"
#include "common/size.h"
#include "model/tokenizer.h"

#define LATE_NS (120 * LAM_NS_PER_S) /* from here on a start is worth a word */
#define ASK_TIMEOUT_NS LAM_NS_PER_S
#define CONTEXT_TOLERANCE_BYTES (32 * LAM_MIB)
#define ANSWER_TIMEOUT_NS (10 * LAM_NS_PER_S)
#define ASK_PERIOD_MS 20
#define DISK_PASSES_MIN 4 /* what was read ahead at the first and the last weighs less then */

/* A template, or a BOS, makes it longer still: the gateway's check is the exact one. */
static enum lam_status check_prompt(
    const struct lam_tokenizer *tokenizer, const char *prompt, uint32_t n_ctx, struct lam_err *err)
{
    struct lam_tokens tokens = {.max = LAM_ENCODE_BYTES_MAX};
    enum lam_status status =
        lam_tokenizer_encode(tokenizer, prompt, strlen(prompt), LAM_ENCODE_PLAIN, &tokens, err);

    if (status == LAM_OK && tokens.n >= n_ctx)
        status = lam_fail(err, LAM_INVALID_ARGUMENT,
            "the prompt has %zu tokens or more; the context holds %" PRIu32
            ", at least one of them generated: shorten the prompt, or give a larger --ctx",
            tokens.n, n_ctx);
    lam_tokens_done(&tokens);
    return status;
}

/* Checks that the gateway would make, made before a model is read and there is anything to clean
 * up. */
static enum lam_status check_text(const struct lam_session_config *config, struct lam_err *err)
{
    const struct lam_planning *planning = &config->plan->planning;
    struct lam_tokenizer *tokenizer = NULL;
    enum lam_status status = lam_tokenizer_create(planning->file.gguf, &tokenizer, err);

    if (status)
        return lam_err_wrap(err, status, "%.200s", config->model);
    if (config->prompt)
        status = check_prompt(tokenizer, config->prompt, planning->plan.n_ctx, err);
    lam_tokenizer_destroy(tokenizer);
    return status;
}

/* True when the stack came to its end within `ms`. */
static bool wait_for_end(const struct lam_session *session, int ms)
{
    struct pollfd fd = {.fd = lam_stack_end_fd(session->stack), .events = POLLIN};

    return poll(&fd, 1, ms) == 1;
}

/* As long as it takes: what stays on a GPU is read before, and a disk may need many minutes for it.
 * Services that wait for each other in vain say so and end. */
static enum lam_status wait_ready(struct lam_session *session, struct lam_err *err)
{
    uint64_t late_ns = lam_now_ns() + LATE_NS;
    struct lam_err ask = {0};
    bool up = false;

    while (!wait_for_end(session, ASK_PERIOD_MS)) {
        /* A channel that fails at first waits by its own clock before it dials again. */
        if (!up)
            up = lam_run_dir_answers(lam_stack_gateway(session->stack));
        if (up && !lam_client_get_model(session->client, ASK_TIMEOUT_NS, &session->model, &ask) &&
            session->model.n_workers > 0)
            return LAM_OK;
        if (lam_now_ns() > late_ns) {
            late_ns = UINT64_MAX;
            fprintf(stderr,
                "laminar: note: not ready after %llu s; --verbose shows what the services do\n",
                LATE_NS / LAM_NS_PER_S);
        }
    }
    return lam_stack_check(session->stack, err);
}

/* The worker measures its own context; the plan was made with that of another process before it. */
static void check_context(const struct lam_session *session)
{
    const struct lam_plan_device *device = &session->plan->planning.devices[0];
    const struct lam_client_worker *worker = &session->model.workers[0];
    uint64_t planned = device->context_bytes;
    uint64_t real = worker->memory.context_bytes;
    char texts[2][24];

    if (device->kind != LAM_DEVICE_GPU || !worker->has_memory)
        return;
    if (real > planned + CONTEXT_TOLERANCE_BYTES || planned > real + CONTEXT_TOLERANCE_BYTES)
        fprintf(stderr,
            "laminar: note: the worker's context takes %s on %s and %s were planned; its own plan, "
            "which it keeps to, may have other layers resident\n",
            lam_size_format(real, texts[0], sizeof texts[0]), device->name,
            lam_size_format(planned, texts[1], sizeof texts[1]));
}

static void cancel_client(void *client)
{
    lam_client_cancel(client);
}

enum lam_status lam_session_open(
    const struct lam_session_config *config, struct lam_session *session, struct lam_err *err)
{
    struct lam_stack_config stack_config = {
        .model = config->model,
        .runtime_dir = config->runtime_dir,
        .listen = config->listen,
        .drains = config->stays,
        .ops = config->ops,
        .record = config->record,
        .options = config->options,
        .plan = config->plan,
    };
    const struct lam_planning *planning = &config->plan->planning;
    enum lam_status status;

    memset(session, 0, sizeof *session);
    session->stays = config->stays;
    session->plan = config->plan;
    status = check_text(config, err);
    if (!status)
        status = lam_stack_start(&stack_config, &session->stack, err);
    if (!status)
        status = lam_client_create(lam_stack_gateway(session->stack), &session->client, err);
    if (!status)
        status = lam_progress_start(lam_stack_loader(session->stack),
            planning->manifest.unit_bytes_total, &session->progress, err);
    if (status)
        return status;
    lam_stack_on_end(session->stack, cancel_client, session->client);
    status = wait_ready(session, err);
    if (!status)
        check_context(session);
    return status;
}

enum lam_status lam_session_refresh(struct lam_session *session, struct lam_err *err)
{
    return lam_client_get_model(session->client, ANSWER_TIMEOUT_NS, &session->model, err);
}

enum lam_status lam_session_write_trace(
    const struct lam_session *session, const char *path, struct lam_err *err)
{
    struct lam_trace_page pages[LAM_STACK_OPS] = {0};
    const char *addresses[LAM_STACK_OPS];
    enum lam_status status;

    lam_stack_ops(session->stack, addresses);
    for (size_t i = 0; i < LAM_STACK_OPS; i++)
        pages[i].address = addresses[i];
    status = lam_trace_collect(pages, LAM_STACK_OPS, 0, path, err);
    if (status == LAM_OK) {
        lam_trace_warn(pages, LAM_STACK_OPS);
        fprintf(stderr, "laminar: trace in %s: open it at https://ui.perfetto.dev\n", path);
    }
    lam_trace_pages_done(pages, LAM_STACK_OPS);
    return status;
}

/* What the worker says, whose own plan its memory is made of. */
static void add_worker(const struct lam_client_worker *worker, struct lam_plan_measured *measured)
{
    const struct lam_client_memory *memory = &worker->memory;
    uint64_t arena = memory->resident_bytes + memory->slots_bytes + memory->kv_bytes +
                     memory->activations_bytes + memory->workspace_bytes;

    measured->resident_bytes = memory->resident_bytes;
    measured->slots_bytes = memory->slots_bytes;
    measured->kv_bytes = memory->kv_bytes;
    measured->activations_bytes = memory->activations_bytes;
    measured->workspace_bytes = memory->workspace_bytes;
    measured->layers_resident = (uint32_t)memory->resident_layers;
    measured->total_bytes = memory->measured_bytes;
    if (memory->measured_bytes > arena)
        measured->context_bytes = memory->measured_bytes - arena;
}

struct lam_plan_report lam_session_report(
    const struct lam_session *session, const struct lam_session_watch *watch)
{
    const struct lam_planning *planning = &session->plan->planning;
    const struct lam_client_worker *worker = &session->model.workers[0];
    struct lam_plan_measured measured = {
        .known = true, .pass_seconds = -1, .streamed_bytes = -1, .disk_bytes = -1};

    measured.pool_bytes = lam_stack_pool_bytes(session->stack);
    if (planning->devices[0].kind == LAM_DEVICE_CPU)
        measured.total_bytes = lam_stack_resident_bytes(session->stack);
    else if (session->model.n_workers > 0 && worker->has_memory)
        add_worker(worker, &measured);
    if (session->model.n_workers > 0 && worker->has_profile)
        measured.streamed_bytes = (double)worker->last.link_bytes;
    if (watch && watch->pass_s > 0)
        measured.pass_seconds = watch->pass_s;
    if (watch && watch->counted && watch->n_passes >= DISK_PASSES_MIN)
        measured.disk_bytes =
            (double)(watch->after.disk_bytes - watch->before.disk_bytes) / watch->n_passes;
    return (struct lam_plan_report){.out = stderr,
        .request = &planning->request,
        .plan = &planning->plan,
        .measured = measured,
        .sources = planning->sources};
}

/* A server that ends waits up to a second for each connection to say that all was read, and nobody
 * reads on ours any more: they go before the services. After a failure the end of the process
 * releases them: without memory gRPC has no threads for its own shutdown, and waits for them
 * forever. */
static void hang_up(struct lam_session *session, const struct lam_err *err)
{
    if (err && err->status != LAM_CANCELLED)
        return;
    lam_progress_destroy(session->progress);
    lam_client_destroy(session->client);
}

int lam_session_close(struct lam_session *session, struct lam_err *err)
{
    bool stays = session->stays;
    bool no_fit = false;
    int interrupted;

    if (session->progress)
        lam_progress_hide(session->progress);
    if (session->stack) {
        no_fit = err && lam_stack_blame(session->stack, err) == LAM_RESOURCE_EXHAUSTED;
        lam_stack_on_end(session->stack, NULL, NULL);
    }
    hang_up(session, err);
    interrupted = lam_stack_stop(session->stack);
    memset(session, 0, sizeof *session);
    if (interrupted && stays)
        return LAM_EXIT_OK;
    if (interrupted)
        lam_stack_die_by(interrupted);
    if (!err)
        return LAM_EXIT_OK;
    return no_fit ? lam_command_no_fit(err) : lam_command_fail(err);
}
