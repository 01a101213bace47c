/* faulty_mount: see the header. */
#include "tests/fault/faulty_mount.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/flag.h"
#include "tests/unit/loader/live_loader.h"

#define FUSE_MOUNTING_FAILED 4 /* as fuse_main tells it */

uint64_t faulty_deadline_ns;
char faulty_path[64];
static char mount_dir[48];
static pid_t server;
static bool mounted;

/* faultfs lies where Bazel built it, beside this folder. */
static void become_server(void)
{
    char self[PATH_MAX], program[PATH_MAX + 32];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char foreground[] = "-f";
    char *argv[] = {program, live_model.path, mount_dir, foreground, NULL};
    /* libfuse cancels its threads, which the thread sanitizer takes for a defect. */
    char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", sanitizer[] = "TSAN_OPTIONS=report_bugs=0";
    char *environment[] = {path, sanitizer, NULL};

    if (n > 0) {
        self[n] = '\0';
        snprintf(program, sizeof(program), "%s/../tools/faultfs", dirname(self));
        execve(program, argv, environment);
    }
    _exit(127);
}

/* False: this machine lets nobody mount. Anything else that goes wrong is a failure. */
static bool wait_for_mount(void)
{
    uint64_t until_ns = lam_now_ns() + 60 * LAM_NS_PER_S;
    struct stat info;
    int status = 0;

    while (stat(faulty_path, &info) != 0) {
        if (waitpid(server, &status, WNOHANG) == server) {
            assert_true(WIFEXITED(status));
            assert_int_equal(WEXITSTATUS(status), FUSE_MOUNTING_FAILED);
            return false;
        }
        assert_true(lam_now_ns() < until_ns);
        lam_sleep_ns(LAM_NS_PER_MS);
    }
    return true;
}

int faulty_set_up(void **state)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    live_set_up(state);
    snprintf(mount_dir, sizeof(mount_dir), "%s/mnt", live_model.dir);
    snprintf(faulty_path, sizeof(faulty_path), "%s/model", mount_dir);
    if (fd < 0) {
        print_message("not run: no /dev/fuse (%s)\n", strerror(errno));
        return 0;
    }
    close(fd);
    assert_int_equal(mkdir(mount_dir, 0700), 0);
    server = fork();
    assert_true(server >= 0);
    if (server == 0)
        become_server();
    mounted = wait_for_mount();
    if (!mounted)
        print_message("not run: /dev/fuse is there, but nothing can be mounted\n");
    return 0;
}

int faulty_tear_down(void **state)
{
    if (mounted) {
        int status = -1;

        kill(server, SIGTERM); /* it unmounts */
        waitpid(server, &status, 0);
        mounted = false;
    }
    rmdir(mount_dir);
    return live_tear_down(state);
}

void faulty_need(void)
{
    if (!mounted)
        skip();
    faulty_set("clear");
}

void faulty_set(const char *fmt, ...)
{
    char path[64], command[64];
    va_list args;
    int length, fd;

    va_start(args, fmt);
    length = vsnprintf(command, sizeof(command), fmt, args);
    va_end(args);
    snprintf(path, sizeof(path), "%s/control", mount_dir);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, command, (size_t)length), length);
    close(fd);
}

static void read_counts(uint64_t *ret_reads, uint64_t *ret_stalled)
{
    char path[64], text[48] = "";
    char *second;
    int64_t n;
    int fd;

    snprintf(path, sizeof(path), "%s/control", mount_dir);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(read(fd, text, sizeof(text) - 1) > 0);
    close(fd);
    text[strcspn(text, "\n")] = '\0';
    second = strchr(text, ' ');
    assert_non_null(second);
    *second++ = '\0';
    assert_true(lam_int_parse(text, 0, INT64_MAX, &n));
    *ret_reads = (uint64_t)n;
    assert_true(lam_int_parse(second, 0, INT64_MAX, &n));
    *ret_stalled = (uint64_t)n;
}

uint64_t faulty_reads(void)
{
    uint64_t n_reads, n_stalled;

    read_counts(&n_reads, &n_stalled);
    return n_reads;
}

void faulty_wait_stalled(void)
{
    uint64_t until_ns = lam_now_ns() + 60 * LAM_NS_PER_S;
    uint64_t n_reads, n_stalled = 0;

    while (n_stalled == 0) {
        assert_true(lam_now_ns() < until_ns);
        lam_sleep_ns(LAM_NS_PER_MS);
        read_counts(&n_reads, &n_stalled);
    }
}

struct lam_loader *faulty_start(const char *ram, enum lam_reader_choice engine, bool no_checksums)
{
    char listen[64], pool_socket[64];
    const char *addresses[1] = {listen};
    const char *const models[1] = {faulty_path};
    struct lam_loader_config config = {.models = models,
        .n_models = 1,
        .listen = addresses,
        .n_listen = 1,
        .pool_socket = pool_socket,
        .ram = ram,
        .share = {.engine = engine, .read_deadline_ns = faulty_deadline_ns},
        .no_checksums = no_checksums};
    struct lam_loader *loader = NULL;
    struct lam_err err = {0};

    snprintf(listen, sizeof(listen), "unix:%s/loader.sock", live_model.dir);
    snprintf(pool_socket, sizeof(pool_socket), "%s/pool.sock", live_model.dir);
    if (lam_loader_create(&config, &loader, &err) != LAM_OK)
        fail_msg("%s", err.text);
    return loader;
}
