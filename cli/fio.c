/* fio: see fio.h. Started with posix_spawn, since gRPC's threads are running by now. */
#include "cli/fio.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/size.h"

#define OUTPUT_BYTES_MAX (4 * LAM_MIB)
#define ARGS_MAX 24
#define ARG_BYTES 64

extern char **environ;

/* Signals are blocked in us, since a descriptor takes them; a child must not inherit that. */
static int spawn(char *const argv[], int out_fd, pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    int code;

    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out_fd, STDERR_FILENO);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    code = posix_spawnp(ret_pid, argv[0], &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

/* All that fio says, until it ends. False: end_fd came first, or there is no memory. */
static bool collect(int fd, int end_fd, struct lam_buf *out)
{
    char chunk[4096];

    for (;;) {
        struct pollfd waits[2] = {{.fd = fd, .events = POLLIN}, {.fd = end_fd, .events = POLLIN}};
        ssize_t n;

        if (poll(waits, 2, -1) < 0 && errno != EINTR)
            return false;
        if (waits[1].revents)
            return false;
        if (!waits[0].revents)
            continue;
        n = read(fd, chunk, sizeof chunk);
        if (n == 0)
            return true;
        if (n > 0 && !lam_buf_append(out, chunk, (size_t)n))
            return false;
    }
}

static int reap(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status;
}

/* fio may print notes before the object. */
static enum lam_status parse(
    const struct lam_buf *out, double *ret_bytes_per_s, struct lam_err *err)
{
    const char *text = out->size > 0 ? out->data : "nothing";
    const char *begin = strchr(text, '{');
    json_t *root = begin ? json_loads(begin, 0, NULL) : NULL;
    json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    json_t *speed = json_object_get(json_object_get(job, "read"), "bw_bytes");
    enum lam_status status = LAM_OK;

    if (json_is_number(speed) && json_number_value(speed) > 0)
        *ret_bytes_per_s = json_number_value(speed);
    else
        status = lam_fail(err, LAM_FAILED_PRECONDITION, "fio gave no speed; it said: %.200s", text);
    json_decref(root);
    return status;
}

static enum lam_status run(char *const argv[], int end_fd, struct lam_buf *out, struct lam_err *err)
{
    int ends[2];
    pid_t pid;
    int code;
    int status;
    bool all;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return lam_fail_errno(err, errno, "cannot make a pipe to fio");
    code = spawn(argv, ends[1], &pid);
    close(ends[1]);
    if (code) {
        close(ends[0]);
        return lam_fail_errno(
            err, code, "cannot start fio: install it, or leave --against-fio out");
    }
    all = collect(ends[0], end_fd, out);
    close(ends[0]);
    if (!all)
        kill(pid, SIGKILL);
    status = reap(pid);
    if (!all)
        return lam_fail(err, LAM_CANCELLED, "fio was interrupted");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return lam_fail(err, LAM_FAILED_PRECONDITION, "fio failed; it said: %.300s",
            out->size > 0 ? out->data : "nothing");
    return LAM_OK;
}

enum lam_status lam_fio_add(struct lam_buf *files, const char *path, struct lam_err *err)
{
    if (strchr(path, ':'))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "fio takes a path with ':' for several: give it through a link without, not %.200s",
            path);
    if ((files->size > 0 && !lam_buf_text(files, ":")) || !lam_buf_text(files, path))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the list of files");
    return LAM_OK;
}

enum lam_status lam_fio_read(const struct lam_buf *files, const struct lam_fio_way *way,
    uint32_t run_ms, int end_fd, double *ret_bytes_per_s, struct lam_err *err)
{
    char block[ARG_BYTES];
    char depth[ARG_BYTES];
    char run_time[ARG_BYTES];
    char *const argv[ARGS_MAX] = {"fio", "--name=laminar", "--filename", files->data, "--rw=read",
        "--readonly", "--ioengine=io_uring", "--direct=1", "--fixedbufs=1", "--registerfiles=1",
        "--time_based", run_time, block, depth, "--output-format=json", NULL};
    struct lam_buf out = LAM_BUF(OUTPUT_BYTES_MAX);
    enum lam_status status;

    snprintf(block, sizeof block, "--bs=%" PRIu64, way->block_bytes);
    snprintf(depth, sizeof depth, "--iodepth=%" PRIu32, way->depth);
    snprintf(run_time, sizeof run_time, "--runtime=%" PRIu32 "ms", run_ms);
    status = run(argv, end_fd, &out, err);
    if (!status)
        status = parse(&out, ret_bytes_per_s, err);
    lam_buf_done(&out);
    return status;
}
