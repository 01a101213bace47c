/* launch: see launch.h. */
#include "cli/launch.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TEXT_BYTES (4 * PATH_MAX)
#define STEP_LIMIT_PASSES 20
#define STEP_LIMIT_LEAST_S 600  /* the gateway's own */
#define STEP_LIMIT_MOST_S 86400 /* its largest */
#define PARENT_BYTES_MAX 70     /* leaves room for "/laminar-XXXXXX/gateway-ops.sock" */

static const char *const service_names[LAM_SERVICES] = {
    [LAM_SERVICE_LOADER] = "loader",
    [LAM_SERVICE_GATEWAY] = "gateway",
    [LAM_SERVICE_WORKER] = "worker",
};

/* A command line under construction: pointers into one buffer of texts. */
struct line {
    char *argv[LAM_CHILD_ARGS_MAX + 1];
    size_t n;
    char text[TEXT_BYTES];
    size_t used;
    bool cut; /* an argument did not fit */
};

static void add(struct line *line, const char *fmt, ...) LAM_PRINTF(2, 3);

static void add(struct line *line, const char *fmt, ...)
{
    size_t left = sizeof line->text - line->used;
    va_list args;
    int length;

    assert(line->n < LAM_CHILD_ARGS_MAX);
    va_start(args, fmt);
    length = vsnprintf(line->text + line->used, left, fmt, args);
    va_end(args);
    if (length < 0 || (size_t)length >= left) {
        line->cut = true;
        return;
    }
    line->argv[line->n++] = line->text + line->used;
    line->used += (size_t)length + 1;
}

/* "<folder of this program>/../loader/laminar-loader" as Bazel lays it out, else beside this
 * program. */
static enum lam_status find_binary(const char *name, char path[PATH_MAX], struct lam_err *err)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash;

    if (n <= 0)
        return lam_fail_errno(err, errno, "cannot find this program's own path; is /proc mounted?");
    self[n] = '\0';
    slash = strrchr(self, '/');
    *slash = '\0';
    if (snprintf(path, PATH_MAX, "%s/../%s/laminar-%s", self, name, name) < PATH_MAX &&
        access(path, X_OK) == 0)
        return LAM_OK;
    if (snprintf(path, PATH_MAX, "%s/laminar-%s", self, name) < PATH_MAX)
        return LAM_OK;
    return lam_fail(err, LAM_FAILED_PRECONDITION, "this program's path is too long");
}

static bool try_parent(const char *parent, struct lam_run_dir *dir)
{
    snprintf(dir->path, sizeof dir->path, "%s/laminar-XXXXXX", parent);
    if (mkdtemp(dir->path))
        return true;
    dir->path[0] = '\0';
    return false;
}

enum lam_status lam_run_dir_make(
    const char *parent, struct lam_run_dir *ret_dir, struct lam_err *err)
{
    struct lam_run_dir dir = {0};
    bool usable = parent && parent[0] == '/' && strlen(parent) <= PARENT_BYTES_MAX;

    if (!(usable && try_parent(parent, &dir)) && !try_parent("/tmp", &dir))
        return lam_fail_errno(err, errno,
            "cannot make a private directory in /tmp; make it writable or set XDG_RUNTIME_DIR");
    snprintf(dir.loader, sizeof dir.loader, "unix:%.90s/loader.sock", dir.path);
    snprintf(dir.gateway, sizeof dir.gateway, "unix:%.90s/gateway.sock", dir.path);
    snprintf(dir.pool, sizeof dir.pool, "%.90s/pool.sock", dir.path);
    for (int i = 0; i < LAM_SERVICES; i++) {
        char ops[sizeof dir.ops[0]]; /* gcc cannot tell the array from the path */
        snprintf(ops, sizeof ops, "unix:%.90s/%s-ops.sock", dir.path, service_names[i]);
        memcpy(dir.ops[i], ops, sizeof ops);
    }
    *ret_dir = dir;
    return LAM_OK;
}

bool lam_run_dir_answers(const char *address)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool answers;

    snprintf(name.sun_path, sizeof name.sun_path, "%s", address + strlen("unix:"));
    answers = fd >= 0 && connect(fd, (const struct sockaddr *)&name, sizeof name) == 0;
    if (fd >= 0)
        close(fd);
    return answers;
}

void lam_run_dir_remove(struct lam_run_dir *dir)
{
    if (!dir->path[0])
        return;
    unlink(dir->loader + strlen("unix:"));
    unlink(dir->gateway + strlen("unix:"));
    unlink(dir->pool);
    for (int i = 0; i < LAM_SERVICES; i++)
        unlink(dir->ops[i] + strlen("unix:"));
    rmdir(dir->path);
    dir->path[0] = '\0';
}

static void add_loader(
    struct line *line, const struct lam_stack_config *config, const struct lam_run_dir *dir)
{
    add(line, "--model");
    add(line, "%s", config->model);
    add(line, "--listen");
    add(line, "%s", dir->loader);
    add(line, "--pool-socket");
    add(line, "%s", dir->pool);
    if (config->plan) {
        add(line, "--ram");
        add(line, "%" PRIu64 "B", config->plan->planning.plan.pool.budget_bytes);
    }
    for (size_t i = 0; i < config->options->plan.shards.list.n; i++) {
        add(line, "--shards");
        add(line, "%s", config->options->plan.shards.items[i]);
    }
    for (const char *const *arg = config->loader_args; arg && *arg; arg++)
        add(line, "%s", *arg);
}

/* Seconds for one pass. There is no other worker to go on with, and the end of this one is seen: so
 * `run` waits, for an hour if that is what a pass takes. `serve` has other clients to answer to: it
 * gives up what takes many times its forecast. */
static double step_limit(const struct lam_stack_config *config)
{
    double planned = STEP_LIMIT_PASSES * config->plan->planning.plan.pass_seconds;

    if (!config->drains)
        return 0;
    if (!(planned > STEP_LIMIT_LEAST_S))
        return STEP_LIMIT_LEAST_S;
    return planned < STEP_LIMIT_MOST_S ? planned : STEP_LIMIT_MOST_S;
}

static void add_gateway(
    struct line *line, const struct lam_stack_config *config, const struct lam_run_dir *dir)
{
    add(line, "--listen");
    if (config->listen)
        add(line, "%s,%s", dir->gateway, config->listen);
    else
        add(line, "%s", dir->gateway);
    add(line, "--step-timeout");
    add(line, "%.0f", step_limit(config));
}

/* What the plan chose, not what was asked for: the worker makes the same plan from it. */
static void add_planned(struct line *line, const struct lam_stack_config *config)
{
    const struct lam_planning *planning = &config->plan->planning;
    const struct lam_plan *plan = &planning->plan;

    add(line, "--device");
    add(line, "%s", config->plan->device);
    if (config->options->cuda_library) {
        add(line, "--cuda-library");
        add(line, "%s", config->options->cuda_library);
    }
    add(line, "--kv-type");
    add(line, "%s", lam_planning_kv_type(planning));
    add(line, "--batch");
    add(line, "%" PRIu32, plan->n_seqs);
    add(line, "--ctx");
    add(line, "%" PRIu32, plan->n_ctx);
    add(line, "--prefill-chunk");
    add(line, "%" PRIu32, plan->prefill_chunk);
    add(line, "--disk-rate"); /* GB/s, as the other three */
    add(line, "%.9g", planning->request.host.disk_rate / 1e9);
    add(line, "--host-rate");
    add(line, "%.9g", planning->request.host.memory_rate / 1e9);
    if (planning->devices[0].kind != LAM_DEVICE_GPU)
        return;
    add(line, "--vram");
    add(line, "%" PRIu64 "B", planning->devices[0].cap_bytes);
    add(line, "--link-rate");
    add(line, "%.9g", planning->devices[0].link_rate / 1e9);
    add(line, "--memory-rate");
    add(line, "%.9g", planning->devices[0].memory_rate / 1e9);
    add(line, "--product-rate");
    add(line, "%.9g", planning->devices[0].product_rate / 1e9);
    add(line, "--layer-time");
    add(line, "%.9g", planning->devices[0].layer_seconds * 1e6);
}

static void add_worker(
    struct line *line, const struct lam_stack_config *config, const struct lam_run_dir *dir)
{
    const struct lam_stack_options *options = config->options;

    add(line, "--gateway");
    add(line, "%s", dir->gateway);
    add(line, "--loader");
    add(line, "%s", dir->loader);
    add(line, "--pool-socket");
    add(line, "%s", dir->pool);
    add(line, "--id");
    add(line, "%s", config->plan->device);
    add_planned(line, config);
    add(line, "--kernels");
    add(line, "%s", options->kernels);
    add(line, "--layer-batch");
    add(line, "%s", options->plan.layer_batch);
    add(line, "--threads");
    add(line, "%lld", (long long)options->n_threads);
}

enum lam_status lam_launch(const struct lam_stack_config *config, const struct lam_run_dir *dir,
    enum lam_service service, struct lam_child *child, struct lam_err *err)
{
    struct line line = {0};
    char binary[PATH_MAX];
    enum lam_status status = find_binary(child->name, binary, err);

    if (status)
        return status;
    add(&line, "laminar-%s", child->name);
    if (service == LAM_SERVICE_LOADER)
        add_loader(&line, config, dir);
    else if (service == LAM_SERVICE_GATEWAY)
        add_gateway(&line, config, dir);
    else
        add_worker(&line, config, dir);
    if (config->ops) {
        add(&line, "--ops");
        add(&line, "%s", dir->ops[service]);
    }
    if (config->record)
        add(&line, "--record");
    if (service != LAM_SERVICE_WORKER) { /* the worker leaves nothing in the directory */
        add(&line, "--run-dir");
        add(&line, "%s", dir->path);
    }
    if (config->options->verbose) {
        add(&line, "--log-level");
        add(&line, "debug");
    }
    if (line.cut)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the command line of the %s is too long; shorten the model's path", child->name);
    return lam_child_spawn(child, binary, line.argv, err);
}
