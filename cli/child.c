/* child: see child.h. */
#include "cli/child.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/command.h"
#include "common/size.h"
#include "loader/memory.h"

#define EXIT_NOT_STARTED 127

struct lam_child lam_child_none(const char *name)
{
    return (struct lam_child){.name = name, .pidfd = -1, .log_fd = -1};
}

/* Between fork and exec: async-signal-safe calls only. Does not return. */
static void become(const char *path, char *const argv[], int log_fd, pid_t parent)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t none;
    int null_fd;

    /* The parent may have died before prctl took effect: then nobody would ever tell us. */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent)
        _exit(EXIT_NOT_STARTED);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* When we are killed, nobody reads the pipe: a log line must not end the child's clean-up. */
    sigaction(SIGPIPE, &ignore, NULL);
    null_fd = open("/dev/null", O_RDONLY);
    if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
        dup2(log_fd, STDERR_FILENO) < 0)
        _exit(EXIT_NOT_STARTED);
    if (null_fd > STDERR_FILENO)
        close(null_fd);
    execv(path, argv);
    _exit(EXIT_NOT_STARTED);
}

enum lam_status lam_child_spawn(
    struct lam_child *child, const char *path, char *const argv[], struct lam_err *err)
{
    pid_t parent = getpid();
    int ends[2];
    pid_t pid;

    if (access(path, X_OK) != 0)
        return lam_fail_errno(err, errno,
            "cannot find the %s beside this program at '%.200s'; build or install all programs",
            child->name, path);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return lam_fail_errno(err, errno, "cannot make a pipe for the %s", child->name);
    pid = fork();
    if (pid == 0)
        become(path, argv, ends[1], parent);
    close(ends[1]);
    if (pid < 0) {
        int fork_errno = errno;
        close(ends[0]);
        return lam_fail_errno(err, fork_errno, "cannot start the %s", child->name);
    }
    child->pid = pid;
    child->log_fd = ends[0];
    if (fcntl(child->log_fd, F_SETFL, O_NONBLOCK) != 0)
        return lam_fail_errno(err, errno, "cannot read the log of the %s", child->name);
    child->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (child->pidfd < 0)
        return lam_fail_errno(err, errno, "cannot watch the %s; Linux 5.3 is needed", child->name);
    fcntl(child->pidfd, F_SETFD, FD_CLOEXEC);
    return LAM_OK;
}

/* Without "laminar-worker: " in front: the sentence around it names the service already. */
static const char *without_prefix(const struct lam_child *child, const char *line)
{
    size_t n_name = strlen(child->name);

    if (strncmp(line, "laminar-", 8) == 0 && strncmp(line + 8, child->name, n_name) == 0 &&
        strncmp(line + 8 + n_name, ": ", 2) == 0)
        return line + 8 + n_name + 2;
    return line;
}

/* Services write JSON lines when their stderr is no terminal; anything else is kept as it is. */
static void keep_line(struct lam_child *child)
{
    json_t *line = json_loadb(child->line, child->line_bytes, 0, NULL);
    const char *message = json_string_value(json_object_get(line, "message"));
    const char *level = json_string_value(json_object_get(line, "level"));

    child->line[child->line_bytes] = '\0';
    if (message) {
        snprintf(child->last_line, sizeof child->last_line, "%s", message);
        if (level && strcmp(level, "error") == 0)
            snprintf(child->last_error, sizeof child->last_error, "%s", message);
    } else if (child->line_bytes > 0) {
        snprintf(
            child->last_line, sizeof child->last_line, "%s", without_prefix(child, child->line));
    }
    if (child->on_line && child->line_bytes > 0)
        child->on_line(child->on_line_arg, child->last_line);
    json_decref(line);
    child->line_bytes = 0;
}

static void take_bytes(struct lam_child *child, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '\n')
            keep_line(child);
        else if (child->line_bytes + 1 < sizeof child->line)
            child->line[child->line_bytes++] = bytes[i];
    }
}

void lam_child_read_log(struct lam_child *child, bool verbose)
{
    char bytes[4096];

    while (child->log_fd >= 0) {
        ssize_t n = read(child->log_fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            keep_line(child);
            close(child->log_fd);
            child->log_fd = -1;
            return;
        }
        if (verbose)
            fwrite(bytes, 1, (size_t)n, stderr);
        take_bytes(child, bytes, (size_t)n);
    }
}

bool lam_child_ended(struct lam_child *child)
{
    pid_t pid;

    if (child->pid == 0)
        return true;
    do
        pid = waitpid(child->pid, &child->wait_status, WNOHANG);
    while (pid < 0 && errno == EINTR);
    if (pid == child->pid)
        child->pid = 0;
    return child->pid == 0;
}

void lam_child_signal(const struct lam_child *child, int signal_number)
{
    if (child->pid > 0)
        kill(child->pid, signal_number);
}

enum lam_status lam_child_explain(const struct lam_child *child, struct lam_err *err)
{
    const char *said = *child->last_error ? child->last_error : child->last_line;
    enum lam_status status = LAM_UNAVAILABLE;

    assert(child->pid == 0);
    if (WIFEXITED(child->wait_status)) {
        int code = WEXITSTATUS(child->wait_status);
        status = code == LAM_EXIT_NO_FIT ? LAM_RESOURCE_EXHAUSTED : LAM_UNAVAILABLE;
        if (*said)
            return lam_fail(err, status, "the %s ended: %s", child->name, said);
        return lam_fail(err, status,
            "the %s ended with exit code %d and said nothing; --verbose "
            "shows its log",
            child->name, code);
    }
    return lam_fail(err, status, "the %s was killed by signal %d (%s)%s%s", child->name,
        WTERMSIG(child->wait_status), sigdescr_np(WTERMSIG(child->wait_status)),
        *child->last_error ? "; its last error: " : "", child->last_error);
}

/* KiB behind "name:". */
static uint64_t kib_after(const char *text, const char *name)
{
    uint64_t value = 0;

    return lam_memory_field(text, name, &value) ? value * LAM_KIB : 0;
}

struct lam_child_memory lam_child_memory_of(pid_t pid)
{
    char path[64];
    char text[4096];
    ssize_t n;
    int fd;

    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    if (fd >= 0)
        close(fd);
    return (struct lam_child_memory){
        .own_bytes = kib_after(text, "RssAnon") + kib_after(text, "RssFile"),
        .shared_bytes = kib_after(text, "RssShmem"),
    };
}

void lam_child_done(struct lam_child *child)
{
    assert(child->pid == 0);
    if (child->pidfd >= 0)
        close(child->pidfd);
    if (child->log_fd >= 0)
        close(child->log_fd);
    *child = lam_child_none(child->name);
}
