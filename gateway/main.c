/* laminar-gateway: the process around service.h: flags, signals, exit codes. */
#include <signal.h>
#include <string.h>

#include "common/clock.h"
#include "common/flag.h"
#include "common/log.h"
#include "common/program.h"
#include "common/trace.h"
#include "gateway/service.h"

#define PROGRAM_NAME "laminar-gateway"
#define LISTEN_MAX 8u
#define LISTEN_BYTES_MAX 1024u

struct flags {
    const char *listen;
    const char *run_dir;
    const char *chat_name;
    const char *log_level;
    const char *ops;
    bool record;
    int64_t waiting_max;
    int64_t orphan_limit_s;
    int64_t grace_s;
    int64_t step_limit_s;
};

/* False: *ret_exit is the exit code. */
static bool parse_flags(int argc, char **argv, struct flags *flags, int *ret_exit)
{
    const struct lam_flag table[] = {
        {.name = "listen",
            .kind = LAM_FLAG_TEXT,
            .target = &flags->listen,
            .value = "ADDRESS,...",
            .help = "Where clients and workers connect: HOST:PORT or unix:PATH."},
        {.name = "max-waiting",
            .kind = LAM_FLAG_INT,
            .target = &flags->waiting_max,
            .value = "N",
            .help = "Requests that wait for a worker; more are refused.",
            .min = 1,
            .max = 1000000},
        {.name = "worker-timeout",
            .kind = LAM_FLAG_INT,
            .target = &flags->orphan_limit_s,
            .value = "SECONDS",
            .help = "How long a request waits while no worker is attached.",
            .min = 0,
            .max = 86400},
        {.name = "step-timeout",
            .kind = LAM_FLAG_INT,
            .target = &flags->step_limit_s,
            .value = "SECONDS",
            .help =
                "How long a worker may take for one pass before it is given up and its texts go "
                "on elsewhere; 0: as long as it likes.",
            .min = 0,
            .max = 86400},
        {.name = "chat-template",
            .kind = LAM_FLAG_TEXT,
            .target = &flags->chat_name,
            .value = "NAME",
            .help = "Chat template instead of the model's own: chatml, llama2, llama3, ..."},
        LAM_PROGRAM_OPS(&flags->ops),
        LAM_PROGRAM_RECORD(&flags->record),
        LAM_PROGRAM_RUN_DIR(&flags->run_dir),
        {.name = "grace",
            .kind = LAM_FLAG_INT,
            .target = &flags->grace_s,
            .value = "SECONDS",
            .help = "How long generations may go on after SIGTERM.",
            .min = 0,
            .max = 3600},
        LAM_PROGRAM_LOG_LEVEL(&flags->log_level),
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar-gateway [flags]",
        .summary =
            "The public service of Laminar: takes text over gRPC, has workers compute, streams "
            "tokens back. Workers dial in to the same address.",
        .flags = table,
    };

    return lam_program_begin(PROGRAM_NAME, &program, argc, argv, NULL, 0, ret_exit);
}

/* Copies `listen` into text and cuts it at its commas. */
static enum lam_status split_listen(const char *listen, char text[LISTEN_BYTES_MAX],
    const char *addresses[LISTEN_MAX], size_t *ret_n, struct lam_err *err)
{
    size_t n = 0;

    if (strlen(listen) >= LISTEN_BYTES_MAX)
        return lam_fail(
            err, LAM_INVALID_ARGUMENT, "--listen is longer than %u bytes", LISTEN_BYTES_MAX - 1);
    memcpy(text, listen, strlen(listen) + 1);
    for (char *rest = text; rest;) {
        char *comma = strchr(rest, ',');
        if (comma)
            *comma = '\0';
        if (*rest == '\0')
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "--listen has an empty address: write 127.0.0.1:50051 or unix:/path");
        if (n == LISTEN_MAX)
            return lam_fail(
                err, LAM_INVALID_ARGUMENT, "--listen takes at most %u addresses", LISTEN_MAX);
        addresses[n++] = rest;
        rest = comma ? comma + 1 : NULL;
    }
    *ret_n = n;
    return LAM_OK;
}

static void log_addresses(const struct lam_service *service, const char *const *addresses, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int port = lam_service_port(service, i);
        if (port > 0)
            lam_info("listening on %s, port %d", addresses[i], port);
        else
            lam_info("listening on %s", addresses[i]);
    }
    if (lam_service_ops_port(service) > 0)
        lam_info("metrics and health on port %d", lam_service_ops_port(service));
}

/* Serves until one of the signals `stop`. */
static enum lam_status serve(const struct flags *flags, const char *const *addresses,
    size_t n_addresses, const sigset_t *stop, struct lam_err *err)
{
    struct lam_trace_mark mark = flags->record ? lam_trace_start() : (struct lam_trace_mark){0};
    const struct lam_service_config config = {
        .listen = addresses,
        .n_listen = n_addresses,
        .waiting_max = (uint32_t)flags->waiting_max,
        .orphan_limit_ns = (uint64_t)flags->orphan_limit_s * LAM_NS_PER_S,
        .step_limit_ns = (uint64_t)flags->step_limit_s * LAM_NS_PER_S,
        .chat_name = flags->chat_name,
        .ops = flags->ops,
        .record = flags->record ? &mark : NULL,
    };
    struct lam_service *service = NULL;
    enum lam_status status = lam_service_create(&config, &service, err);
    int signal_number = 0;

    if (status == LAM_OK)
        status = lam_service_start(service, err);
    if (status == LAM_OK) {
        log_addresses(service, addresses, n_addresses);
        while (sigwait(stop, &signal_number) != 0)
            continue;
        lam_info("%s: letting generations end, at most %lld s", strsignal(signal_number),
            (long long)flags->grace_s);
        lam_service_shutdown(service, (uint64_t)flags->grace_s * LAM_NS_PER_S);
    }
    lam_service_destroy(service);
    return status;
}

int main(int argc, char **argv)
{
    struct flags flags = {.listen = "127.0.0.1:50051",
        .log_level = "info",
        .waiting_max = 256,
        .orphan_limit_s = 30,
        .step_limit_s = 600,
        .grace_s = 10};
    char listen[LISTEN_BYTES_MAX];
    const char *addresses[LISTEN_MAX];
    size_t n_addresses = 0;
    struct lam_err err = {0};
    enum lam_status status;
    int exit_code;
    sigset_t stop;

    if (!parse_flags(argc, argv, &flags, &exit_code))
        return exit_code;
    if (split_listen(flags.listen, listen, addresses, &n_addresses, &err) != LAM_OK)
        return lam_program_fail(PROGRAM_NAME, &err, LAM_EXIT_USAGE);
    lam_program_start("gateway", flags.log_level, &stop);
    status = serve(&flags, addresses, n_addresses, &stop, &err);
    lam_program_end(flags.run_dir, status, &err);
    if (status == LAM_OK)
        return LAM_EXIT_OK;
    return status == LAM_INVALID_ARGUMENT ? LAM_EXIT_USAGE : LAM_EXIT_FAILED;
}
