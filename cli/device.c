/* device: see device.h. The child's answer is a struct of this very program, through a pipe. */
#include "cli/device.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "cli/device_measure.h"
#include "common/clock.h"

#define ASK_TIMEOUT_NS (60 * LAM_NS_PER_S) /* the first CUDA program after a boot takes seconds */
#define DRIVER_TEXT "Kernel Module"

struct reply {
    struct lam_err err; /* status LAM_OK: answers follow */
    uint32_t n;
    struct lam_device_answer answers[LAM_FACTS_GPUS_MAX];
};

/* The version in "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ..."; "" without
 * such a driver. */
static void read_driver(char *text, size_t text_bytes)
{
    char line[256] = "";
    int fd = open("/proc/driver/nvidia/version", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    const char *at = n > 0 ? strstr(line, DRIVER_TEXT) : NULL;

    if (fd >= 0)
        close(fd);
    text[0] = '\0';
    if (!at)
        return;
    at += strlen(DRIVER_TEXT);
    at += strspn(at, " ");
    snprintf(text, text_bytes, "%.*s", (int)strspn(at, "0123456789."), at);
}

/* Digest of the file that the backend's code came from; "" when it cannot be read. */
static void read_library(const struct lam_cuda_backend *backend, char *text, size_t text_bytes)
{
    Dl_info info = {0};
    struct stat status;
    void *bytes = MAP_FAILED;
    int fd;

    text[0] = '\0';
    if (dladdr(backend, &info) == 0 || !info.dli_fname)
        return;
    fd = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &status) == 0 && status.st_size > 0)
        bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes != MAP_FAILED) {
        snprintf(text, text_bytes, "%016llx",
            (unsigned long long)XXH3_64bits(bytes, (size_t)status.st_size));
        munmap(bytes, (size_t)status.st_size);
    }
    if (fd >= 0)
        close(fd);
}

/* Everything that it takes goes with the child. */
static enum lam_status ask_one(const struct lam_cuda_backend *backend, uint32_t index,
    const struct lam_device_question *question, struct lam_device_answer *answer,
    struct lam_err *err)
{
    const struct lam_kernel_config config = lam_device_measure_config(index);
    struct lam_kernels *kernels = NULL;
    struct lam_device_facts facts = {0};
    enum lam_status status = backend->ops->create(&config, &kernels, err);

    if (!status)
        status = backend->device->facts(kernels, &facts, err);
    if (status)
        return status;
    answer->index = index;
    answer->free_bytes = facts.free_bytes + facts.own_bytes;
    if (answer->free_bytes > facts.total_bytes)
        answer->free_bytes = facts.total_bytes;
    answer->facts.total_bytes = facts.total_bytes;
    answer->facts.context_bytes = facts.own_bytes;
    answer->context_is_exact = facts.own_is_exact;
    snprintf(answer->facts.name, sizeof answer->facts.name, "%s", facts.name);
    read_driver(answer->facts.driver, sizeof answer->facts.driver);
    read_library(backend, answer->facts.library, sizeof answer->facts.library);
    if (!question->measure && question->link_ns == 0)
        return LAM_OK;
    return lam_device_measure(backend, kernels, facts.free_bytes, question, answer, err);
}

static void answer_all(const struct lam_device_question *question, struct reply *reply)
{
    const struct lam_cuda_backend *backend = NULL;
    struct lam_err err = {0};

    if (lam_cuda_open(question->folder, &backend, &reply->err))
        return;
    while (reply->n < question->n_max && reply->n < LAM_FACTS_GPUS_MAX &&
           !ask_one(backend, question->first + reply->n, question, &reply->answers[reply->n], &err))
        reply->n++;
    /* Behind the last device is none; but a device that cannot be measured is an error. */
    if (err.status && (reply->n == 0 || err.status != LAM_INVALID_ARGUMENT))
        reply->err = err;
}

static void run_child(const struct lam_device_question *question, int fd)
{
    struct reply reply = {0};
    size_t sent = 0;
    ssize_t n = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    answer_all(question, &reply);
    while (sent < sizeof reply && (n = write(fd, (char *)&reply + sent, sizeof reply - sent)) > 0)
        sent += (size_t)n;
    _exit(n > 0 ? 0 : 1);
}

/* False: the child ended early, or time ran out. */
static bool read_reply(int fd, struct reply *reply, bool *ret_late)
{
    uint64_t give_up_ns = lam_now_ns() + ASK_TIMEOUT_NS;
    size_t have = 0;

    while (have < sizeof *reply) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        uint64_t now_ns = lam_now_ns();
        ssize_t n;
        *ret_late = now_ns >= give_up_ns;
        if (*ret_late)
            return false;
        if (poll(&poll_fd, 1, (int)((give_up_ns - now_ns) / LAM_NS_PER_MS) + 1) <= 0)
            continue;
        n = read(fd, (char *)reply + have, sizeof *reply - have);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        have += n > 0 ? (size_t)n : 0;
    }
    return true;
}

enum lam_status lam_device_ask(const struct lam_device_question *question,
    struct lam_device_answer *ret_answers, uint32_t *ret_n, struct lam_err *err)
{
    struct reply reply = {0};
    bool late = false;
    bool whole;
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) != 0)
        return lam_fail_errno(err, errno, "cannot make a pipe");
    pid = fork();
    if (pid == 0)
        run_child(question, fds[1]);
    close(fds[1]);
    whole = pid > 0 && read_reply(fds[0], &reply, &late);
    close(fds[0]);
    if (pid < 0)
        return lam_fail_errno(err, errno, "cannot start a process that asks the GPU");
    if (!whole)
        kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    if (late)
        return lam_fail(err, LAM_DEADLINE_EXCEEDED,
            "the GPU did not answer in 60 s; is its driver well? --device cpu works without it");
    if (!whole)
        return lam_fail(
            err, LAM_INTERNAL, "the process that asks the GPU died; --device cpu works without it");
    if (reply.err.status) {
        *err = reply.err;
        return err->status;
    }
    memcpy(ret_answers, reply.answers, reply.n * sizeof *ret_answers);
    *ret_n = reply.n;
    return LAM_OK;
}
