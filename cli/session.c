/* session: see session.h. */
#include "cli/session.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/launch.h"
#include "cli/trace_merge.h"
#include "common/clock.h"
#include "common/size.h"
#include "model/tokenizer.h"

#define READY_TIMEOUT_NS (120 * LAM_NS_PER_S)
#define ASK_TIMEOUT_NS LAM_NS_PER_S
#define CONTEXT_TOLERANCE_BYTES (32 * LAM_MIB)
#define ANSWER_TIMEOUT_NS (10 * LAM_NS_PER_S)
#define ASK_PERIOD_MS 20

/* A check that the gateway would make, made before there is anything to clean up. */
static enum lam_status check_tokenizer(
    const char *path, const struct lam_planning *planning, struct lam_err *err)
{
    struct lam_tokenizer *tokenizer = NULL;
    enum lam_status status = lam_tokenizer_create(planning->file.gguf, &tokenizer, err);

    lam_tokenizer_destroy(tokenizer);
    return status ? lam_err_wrap(err, status, "%.200s", path) : LAM_OK;
}

/* True when the stack came to its end within `ms`. */
static bool wait_for_end(const struct lam_session *session, int ms)
{
    struct pollfd fd = {.fd = lam_stack_end_fd(session->stack), .events = POLLIN};

    return poll(&fd, 1, ms) == 1;
}

static enum lam_status wait_ready(struct lam_session *session, struct lam_err *err)
{
    uint64_t give_up_ns = lam_now_ns() + READY_TIMEOUT_NS;
    struct lam_err ask = {0};
    bool up = false;

    while (!wait_for_end(session, ASK_PERIOD_MS)) {
        /* A channel that fails at first waits by its own clock before it dials again. */
        if (!up)
            up = lam_run_dir_answers(lam_stack_gateway(session->stack));
        if (up && !lam_client_get_model(session->client, ASK_TIMEOUT_NS, &session->model, &ask) &&
            session->model.n_workers > 0)
            return LAM_OK;
        if (lam_now_ns() > give_up_ns)
            return lam_fail(err, LAM_DEADLINE_EXCEEDED,
                "the services did not come up in %llu s (%s); --verbose shows their logs",
                READY_TIMEOUT_NS / LAM_NS_PER_S, ask.text);
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
    status = check_tokenizer(config->model, planning, err);
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

void lam_session_print_plan(const struct lam_session *session, double pass_s)
{
    const struct lam_planning *planning = &session->plan->planning;
    struct lam_plan_report report = {.out = stderr,
        .request = &planning->request,
        .plan = &planning->plan,
        .measured = {.pass_seconds = pass_s},
        .sources = planning->sources};

    if (planning->devices[0].kind == LAM_DEVICE_CPU)
        report.measured.device_bytes = lam_stack_resident_bytes(session->stack);
    else if (session->model.n_workers > 0 && session->model.workers[0].has_memory)
        report.measured.device_bytes = session->model.workers[0].memory.measured_bytes;
    lam_plan_report_text(&report);
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
    interrupted = lam_stack_stop(session->stack);
    /* After a failure the end of the process releases these: without memory gRPC has no threads for
     * its own shutdown, and waits for them forever. */
    if (!err) {
        lam_progress_destroy(session->progress);
        lam_client_destroy(session->client);
    }
    memset(session, 0, sizeof *session);
    if (interrupted && stays)
        return LAM_EXIT_OK;
    if (interrupted)
        lam_stack_die_by(interrupted);
    if (!err)
        return LAM_EXIT_OK;
    return no_fit ? lam_command_no_fit(err) : lam_command_fail(err);
}
