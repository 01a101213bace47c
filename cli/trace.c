/* trace: `laminar trace`, what the services of a stack do when, on one time axis. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/trace_merge.h"

struct trace {
    const char *path;
    int64_t seconds;
    bool seconds_set;
    bool since_start;
    bool json;
};

static const char *const epilog =
    "Each ADDRESS is the operations port of a service: what was given to its --ops, HOST:PORT or\n"
    "unix:PATH. All of them record for the same seconds; recording costs next to nothing, and\n"
    "nothing at other times. Open the file at https://ui.perfetto.dev or chrome://tracing. Rows:\n"
    "  gateway  requests (queued, prompt, generation), steps\n"
    "  worker   passes, waits for units, copies to the device, kernels, sampling\n"
    "  loader   disk (a unit's read), checks, leases (from grant to release)\n"
    "Rows of one name are spans that overlap. Services on other machines are shifted by the\n"
    "difference of the wall clocks.\n\n"
    "Examples:\n"
    "  laminar trace -o t.json 127.0.0.1:9464 127.0.0.1:9465 127.0.0.1:9466\n"
    "  laminar trace --seconds 10 unix:/run/laminar/worker-ops.sock\n"
    "  laminar run model.gguf -p Hello --trace t.json    (a whole run, from its start)";

static enum lam_status print_result(
    const struct trace *trace, const struct lam_trace_page *pages, size_t n, struct lam_err *err)
{
    json_t *root;

    if (trace->json) {
        root = lam_json_begin();
        if (root != NULL &&
            (json_object_set_new(root, "path", json_string(trace->path)) != 0 ||
                json_object_set_new(root, "processes", lam_trace_describe(pages, n)) != 0)) {
            json_decref(root);
            root = NULL;
        }
        return lam_json_print(root, err);
    }
    for (size_t i = 0; i < n; i++)
        printf("%s %" PRId64 " at %s: %" PRIu64 " spans\n", pages[i].process, pages[i].pid,
            pages[i].address, pages[i].n_spans);
    printf("%s: open it at https://ui.perfetto.dev\n", trace->path);
    return LAM_OK;
}

static int execute(const struct trace *trace, const char *const *addresses, size_t n)
{
    struct lam_trace_page pages[LAM_TRACE_PROCESSES_MAX] = {0};
    uint32_t seconds = trace->since_start ? 0 : (uint32_t)trace->seconds;
    struct lam_err err = {0};
    enum lam_status status;

    for (size_t i = 0; i < n; i++)
        pages[i].address = addresses[i];
    status = lam_trace_check_path(trace->path, &err);
    if (status == LAM_OK)
        status = lam_trace_collect(pages, n, seconds, trace->path, &err);
    if (status == LAM_OK) {
        lam_trace_warn(pages, n);
        status = print_result(trace, pages, n, &err);
    }
    lam_trace_pages_done(pages, n);
    if (status == LAM_INVALID_ARGUMENT)
        return lam_command_usage(&err);
    return status == LAM_OK ? LAM_EXIT_OK : lam_command_fail(&err);
}

int lam_command_trace(const struct lam_command_env *env, int argc, char **argv)
{
    struct trace trace = {.path = "trace.json", .seconds = 5};
    const struct lam_flag flags[] = {
        {.name = "output",
            .letter = 'o',
            .kind = LAM_FLAG_TEXT,
            .target = &trace.path,
            .value = "FILE",
            .help = "Where the trace goes; a file that is there is replaced."},
        {.name = "seconds",
            .kind = LAM_FLAG_INT,
            .target = &trace.seconds,
            .value = "N",
            .help = "How long to record.",
            .min = 1,
            .max = 60,
            .was_set = &trace.seconds_set},
        {.name = "since-start",
            .kind = LAM_FLAG_BOOL,
            .target = &trace.since_start,
            .help = "What services that were started with --record have recorded by now; ends at "
                    "once."},
        {.name = "json",
            .kind = LAM_FLAG_BOOL,
            .target = &trace.json,
            .help = "Print one JSON object: which processes, how many spans."},
        {.name = NULL},
    };
    const struct lam_flag_program program = {
        .usage = "laminar trace [-o FILE] ADDRESS...",
        .summary = "Records what services do, disk reads, leases, copies, kernels, passes and "
                   "requests, and writes it on one time axis.",
        .flags = flags,
        .epilog = epilog,
    };
    const char *addresses[LAM_TRACE_PROCESSES_MAX] = {0};
    struct lam_err err = {0};
    size_t n = 0;
    int exit_code;

    (void)env;
    if (!lam_command_begin_list(
            &program, argc, argv, addresses, LAM_TRACE_PROCESSES_MAX, &n, &exit_code))
        return exit_code;
    if (n == 0)
        lam_fail(&err, LAM_INVALID_ARGUMENT,
            "which services? Give the address of at least one operations port, as its --ops has "
            "it");
    else if (trace.since_start && trace.seconds_set)
        lam_fail(&err, LAM_INVALID_ARGUMENT,
            "--seconds records from now on and --since-start looks back: give one of them");
    return err.status == LAM_OK ? execute(&trace, addresses, n) : lam_command_usage(&err);
}
