/* serve: `laminar serve`, the three services of one model, until a signal ends them. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/session.h"
#include "common/clock.h"

#define PORT_TIMEOUT_NS (5 * LAM_NS_PER_S)
#define DEFAULT_BATCH 8

struct serve {
    const char *model;
    const char *listen;
    bool json;
    bool ops;
    struct lam_stack_options stack;
};

/* The address with the real port in place of 0. */
static void real_address(
    const struct serve *serve, struct lam_session *session, char *buf, size_t buf_bytes)
{
    uint64_t give_up_ns = lam_now_ns() + PORT_TIMEOUT_NS;
    const char *colon = strrchr(serve->listen, ':');
    int port = 0;

    if (strncmp(serve->listen, "unix:", 5) != 0)
        while ((port = lam_stack_port(session->stack)) == 0 && lam_now_ns() < give_up_ns)
            lam_sleep_ns(LAM_NS_PER_MS);
    if (port > 0 && colon)
        snprintf(buf, buf_bytes, "%.*s:%d", (int)(colon - serve->listen), serve->listen, port);
    else
        snprintf(buf, buf_bytes, "%s", serve->listen);
}

/* {"gateway": address, ...}, or null. */
static json_t *ops_json(const struct serve *serve, const struct lam_session *session)
{
    const char *addresses[LAM_STACK_OPS];

    if (!serve->ops)
        return json_null();
    lam_stack_ops(session->stack, addresses);
    return json_pack(
        "{s:s,s:s,s:s}", "gateway", addresses[0], "worker", addresses[1], "loader", addresses[2]);
}

static void tell_ops(const struct lam_session *session)
{
    const char *addresses[LAM_STACK_OPS];

    lam_stack_ops(session->stack, addresses);
    fprintf(stderr, "laminar: what it does when: laminar trace -o t.json %s %s %s\n", addresses[0],
        addresses[1], addresses[2]);
}

static json_t *plan_json(const struct lam_plan_report *report)
{
    json_t *plan = json_object();

    lam_plan_report_json(report, plan);
    return plan;
}

static enum lam_status announce(
    const struct serve *serve, struct lam_session *session, struct lam_err *err)
{
    const struct lam_plan_report report = lam_session_report(session, NULL);
    const char *name = session->model.name[0] ? session->model.name : serve->model;
    char address[256];

    real_address(serve, session, address, sizeof address);
    lam_progress_hide(session->progress); /* or the table would begin on the bar's line */
    lam_plan_report_text(&report);
    fprintf(stderr, "laminar: serving ");
    lam_command_print_clean(stderr, name, strlen(name));
    fprintf(stderr, " on %s, context %d tokens; Ctrl-C ends\n", address, session->model.n_ctx);
    if (serve->ops)
        tell_ops(session);
    if (serve->json)
        return lam_json_print(
            json_pack("{s:i,s:s,s:o,s:i,s:o,s:o}", "version", 1, "address", address, "model",
                lam_json_text(session->model.name, strlen(session->model.name)), "context_tokens",
                session->model.n_ctx, "ops", ops_json(serve, session), "plan", plan_json(&report)),
            err);
    if (printf("%s\n", address) < 0 || fflush(stdout) != 0)
        return lam_fail(err, LAM_UNAVAILABLE, "cannot write to standard output; is it closed?");
    return LAM_OK;
}

static enum lam_status wait_for_end(struct lam_session *session, struct lam_err *err)
{
    struct pollfd fd = {.fd = lam_stack_end_fd(session->stack), .events = POLLIN};

    while (poll(&fd, 1, -1) != 1)
        ;
    return lam_stack_check(session->stack, err);
}

static int execute(
    const struct serve *serve, const struct lam_command_env *env, const struct lam_run_plan *plan)
{
    struct lam_session_config config = {
        .model = serve->model,
        .runtime_dir = env->runtime_dir,
        .listen = serve->listen,
        .stays = true,
        .ops = serve->ops,
        .options = &serve->stack,
        .plan = plan,
    };
    struct lam_session session;
    struct lam_err err = {0};
    enum lam_status status = lam_session_open(&config, &session, &err);

    if (!status)
        status = announce(serve, &session, &err);
    if (!status)
        status = wait_for_end(&session, &err);
    return lam_session_close(&session, status ? &err : NULL);
}

static const char *const epilog =
    "Examples:\n"
    "  laminar serve model.gguf\n"
    "  laminar serve model.gguf --ram 8GiB --batch 16 --listen unix:/run/laminar/gateway.sock\n"
    "  laminar serve model.gguf --vram 3GiB --objective throughput\n"
    "and then, elsewhere: laminar generate -p \"Hello\", laminar ps";

int lam_command_serve(const struct lam_command_env *env, int argc, char **argv)
{
    struct serve serve = {.listen = "127.0.0.1:50051", .stack = lam_stack_defaults()};
    struct lam_flag flags[3 + LAM_STACK_FLAGS + 1] = {
        {"listen", 0, LAM_FLAG_TEXT, &serve.listen, "ADDR",
            "HOST:PORT or unix:PATH for clients; port 0 picks one.", 0, 0, NULL, NULL},
        {"json", 0, LAM_FLAG_BOOL, &serve.json, NULL, "Print the address as a JSON object.", 0, 0,
            NULL, NULL},
        {"ops", 0, LAM_FLAG_BOOL, &serve.ops, NULL,
            "Give each service an operations port on a private Unix socket, with /metrics, "
            "/healthz and what `laminar trace` asks for.",
            0, 0, NULL, NULL},
    };
    const struct lam_flag_program program = {
        .usage = "laminar serve MODEL [--listen ADDR] [flags]",
        .summary = "Serves a GGUF model over gRPC (laminar.v1.Generation, with health and "
                   "reflection). Once text can be generated, prints the address on standard "
                   "output; ends well on Ctrl-C and SIGTERM.",
        .flags = flags,
        .epilog = epilog,
    };
    struct lam_run_plan plan;
    struct lam_err err = {0};
    int exit_code;

    lam_stack_add_flags(&serve.stack, flags + 3);
    if (!lam_command_begin(&program, argc, argv, &serve.model, 1, &exit_code))
        return exit_code;
    if (!strchr(serve.listen, ':') || strchr(serve.listen, ',')) {
        lam_fail(&err, LAM_INVALID_ARGUMENT,
            "--listen: '%.64s' is no address; write 127.0.0.1:50051 or unix:/path", serve.listen);
        return lam_command_usage(&err);
    }
    exit_code = lam_stack_plan(&serve.stack, serve.model, env->home, DEFAULT_BATCH, &plan);
    if (exit_code == LAM_EXIT_OK)
        exit_code = execute(&serve, env, &plan);
    lam_run_plan_done(&plan);
    return exit_code;
}
