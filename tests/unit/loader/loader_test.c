/*
 * loader: how sessions and the whole end, and what goes wrong on the way.
 * Started again as "hold DIR", "seccomp ERRNO" or "memlock" this program is a worker that is going
 * to be killed, or a loader on a machine that refuses io_uring or locked memory.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/size.h"
#include "tests/unit/loader/live_loader.h"

/* ---- ends ---- */

/* Takes a unit and ends in some way; how many leases there are before its connection ends. */
static uint32_t leases_after(struct pool_worker *observer, int way)
{
    struct pool_worker worker;
    struct pool_event event = {.kept = true};
    struct lam_err err = {0};
    uint32_t leases;

    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 2);
    while (event.kept)
        assert_int_equal(pool_worker_next(&worker, &event, &err), LAM_OK);
    assert_true(pool_worker_stats(observer)->leases > 0);
    if (way == 0) {
        assert_int_equal(lam_rpc_stream_half_close(worker.stream, NULL), LAM_OK);
        assert_int_equal(live_end_of(&worker, &err), LAM_CANCELLED); /* a good end */
    } else if (way == 1) {
        close(worker.connection);
        worker.connection = -1;
        assert_int_equal(live_end_of(&worker, &err), LAM_UNAVAILABLE);
    } else {
        if (way == 2)
            lam_rpc_stream_cancel(worker.stream);
        else
            pool_worker_release(&worker, 4711, 1);
        assert_true(live_end_of(&worker, &err) != LAM_OK);
    }
    leases = live_leases_after(observer, way < 2 ? LIVE_LIMIT_NS : 100 * LAM_NS_PER_MS);
    if (way >= 2) {
        /* Nothing that it might still read is touched, until its connection ends. */
        for (int i = 0; i < 20; i++)
            live_check_unit(&worker, &event);
        assert_int_equal(pool_worker_stats(observer)->sessions, 1);
    }
    pool_worker_disconnect(&worker);
    assert_int_equal(live_leases_after(observer, LIVE_LIMIT_NS), 0);
    assert_int_equal(pool_worker_stats(observer)->sessions, 0);
    return leases;
}

static void leases_end_with_a_word_or_the_pool_connection(void **state)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(40, text), LAM_READER_AUTO);
    struct pool_worker observer;

    (void)state;
    pool_worker_connect(&observer, live_model.dir);
    for (int round = 0; round < 5; round++) {
        assert_int_equal(leases_after(&observer, 0), 0);
        assert_int_equal(leases_after(&observer, 1), 0);
        assert_true(leases_after(&observer, 2) > 0);
        assert_true(leases_after(&observer, 3) > 0);
    }
    /* And whoever comes next gets everything. */
    pool_worker_open(&observer);
    live_walk(&observer, 2);
    pool_worker_disconnect(&observer);
    lam_loader_destroy(loader);
}

/* Starts this program again; it writes a line when it is where the test wants it. */
static pid_t start_self(char *const argv[], int *ret_fd)
{
    int ends[2];
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    close(ends[1]);
    *ret_fd = ends[0];
    return pid;
}

static void leases_of_a_killed_worker_are_free(void **state)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(40, text), LAM_READER_AUTO);
    struct pool_worker observer;

    (void)state;
    pool_worker_connect(&observer, live_model.dir);
    for (int round = 0; round < 5; round++) {
        char *argv[] = {"loader_test", "hold", live_model.dir, NULL};
        int fd;
        pid_t pid = start_self(argv, &fd);
        char line;

        assert_int_equal(read(fd, &line, 1), 1);
        assert_true(pool_worker_stats(&observer)->leases > 0);
        kill(pid, SIGKILL);
        assert_int_equal(live_leases_after(&observer, LIVE_LIMIT_NS), 0);
        waitpid(pid, NULL, 0);
        close(fd);
    }
    pool_worker_open(&observer);
    live_walk(&observer, 1);
    pool_worker_disconnect(&observer);
    lam_loader_destroy(loader);
}

static void nothing_is_left_after_the_end(void **state)
{
    struct lam_loader *loader = live_start("auto", LAM_READER_AUTO);
    struct pool_worker worker;
    char path[64];
    struct stat info;
    struct lam_err err = {0};

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 1);
    lam_loader_destroy(loader); /* under a worker that is connected */
    assert_true(live_end_of(&worker, &err) != LAM_OK);
    snprintf(path, sizeof(path), "%s/pool.sock", live_model.dir);
    assert_int_equal(stat(path, &info), -1);
    snprintf(path, sizeof(path), "%s/loader.sock", live_model.dir);
    assert_int_equal(stat(path, &info), -1);
    /* The worker's mapping outlives the loader: what it holds stays readable. */
    assert_true(worker.pool[0] == worker.pool[0]);
    pool_worker_disconnect(&worker);
}

/* A worker that keeps layers in its device asks for those first, and they were the last of the
 * pool: all of the pool had to get its memory before one of them was read. */
static void a_worker_that_begins_at_the_end_waits_for_its_region_alone(void **state)
{
    uint32_t last = live_manifest.n_units - 1;
    struct lam_loader *loader;
    struct pool_worker worker;
    struct pool_event event = {0};
    Laminar__V1__GetStatsResponse *stats;

    (void)state;
    lam_fault_hold("region", 0);
    live_options.region_bytes = LAM_MIB;
    loader = live_start("auto", LAM_READER_AUTO);
    live_options.region_bytes = 0;
    lam_fault_await();
    pool_worker_connect(&worker, live_model.dir);
    worker.units = &last;
    worker.n_units = 1;
    pool_worker_open(&worker);
    while (pool_worker_stats(&worker)->sessions == 0)
        continue;
    lam_fault_hold("region", 1); /* one region, and then no more */
    assert_int_equal(pool_worker_next(&worker, &event, NULL), LAM_OK);
    assert_true(event.kept && event.unit == last);
    live_check_unit(&worker, &event);
    lam_fault_await();
    stats = pool_worker_stats(&worker);
    assert_true(stats->pool_ready_bytes < stats->pool_bytes / 2);
    /* The grant said how far memory was then, in no time before the first region's. */
    assert_true(event.pool_ready_bytes > 0 && event.pool_ready_bytes <= stats->pool_ready_bytes);
    assert_true(event.pool_ready_ns > 0 && event.pool_ready_ns <= stats->pool_ready_ns);
    lam_fault_hold(NULL, 0);
    pool_worker_disconnect(&worker);
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 1);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

/* ---- trouble ---- */

static void a_file_that_changes_is_refused(void **state)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(25, text), LAM_READER_AUTO);
    struct pool_worker worker;
    struct pool_event event = {0};
    struct lam_err err = {0};
    enum lam_status status = LAM_OK;
    FILE *file;

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 1);
    file = fopen(live_model.path, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)live_model.n_bytes - 100, SEEK_SET), 0);
    assert_int_equal(fputc('x', file), 'x');
    fclose(file);
    /* What was read before may still come; what is read after must not. On a busy machine the end
     * of the session, which comes when the watch has looked at the file, may be first. */
    for (uint32_t i = 0; i < 8 && status == LAM_OK; i++) {
        status = pool_worker_next(&worker, &event, &err);
        if (status == LAM_OK && event.fault) {
            status = (enum lam_status)event.status;
            snprintf(err.text, sizeof(err.text), "%.400s", event.reason);
        } else if (status == LAM_OK) {
            pool_worker_release(&worker, event.unit, event.generation);
            pool_worker_credit(&worker, 1);
        }
    }
    assert_int_equal(status, LAM_DATA_LOSS);
    assert_non_null(strstr(err.text, "changed"));
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
    live_drop_model();
    live_use_model(96);
}

static void a_pool_that_cannot_work_names_one_that_can(void **state)
{
    struct lam_loader_config config = {
        .models = &live_path, .n_models = 1, .ram = "100KiB", .pool_socket = "/x"};
    struct lam_loader *loader = NULL;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "--ram"));
    config.ram = "lots";
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_INVALID_ARGUMENT);
    config.ram = "auto";
    config.models = (const char *const[]){live_model.dir};
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "is a directory"));
}

/* Every allocation of a start fails once: an error or a working loader, never a crash or a leak. */
static void no_memory_is_a_status(void **state)
{
    uint64_t n = 0;
    bool fired;

    (void)state;
    do {
        char listen[64], pool_socket[64];
        const char *addresses[1] = {listen};
        struct lam_loader_config config = {.models = &live_path,
            .n_models = 1,
            .listen = addresses,
            .n_listen = 1,
            .pool_socket = pool_socket,
            .ram = "auto"};
        struct lam_loader *loader = NULL;
        struct lam_err err = {0};

        snprintf(listen, sizeof(listen), "unix:%s/loader.sock", live_model.dir);
        snprintf(pool_socket, sizeof(pool_socket), "%s/pool.sock", live_model.dir);
        lam_fault_arm("alloc", ++n);
        if (lam_loader_create(&config, &loader, &err) != LAM_OK)
            assert_true(strlen(err.text) > 0);
        fired = lam_fault_fired();
        lam_fault_arm("alloc", 0);
        lam_loader_destroy(loader);
    } while (fired);
    assert_true(n > 20);
}

static void without_io_uring_the_bytes_are_the_same(void **state)
{
    static char *const errors[] = {"EPERM", "ENOSYS"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        char *argv[] = {"loader_test", "seccomp", errors[i], NULL};
        int fd;
        pid_t pid = start_self(argv, &fd);
        int status = -1;

        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        close(fd);
    }
}

/* The limit of a container's default profile: slower, said, and the same bytes. */
static void without_locked_memory_the_bytes_are_the_same(void **state)
{
    char *argv[] = {"loader_test", "memlock", NULL};
    char log[8192] = "";
    size_t n_log = 0;
    ssize_t n = 1;
    int fd, status = -1;
    pid_t pid = start_self(argv, &fd);

    (void)state;
    while (n > 0 && n_log < sizeof(log) - 1) {
        n = read(fd, log + n_log, sizeof(log) - 1 - n_log);
        n_log += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    /* Where io_uring is refused altogether there is nothing to lock. */
    assert_true(strstr(log, "raise the limit of locked memory") != NULL ||
                strstr(log, "io_uring cannot be used") != NULL);
}

/* ---- this program as somebody else ---- */

static int hold(const char *dir)
{
    struct pool_worker worker;
    struct pool_event event = {.kept = true};

    pool_worker_connect(&worker, dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 2);
    while (event.kept) {
        if (pool_worker_next(&worker, &event, NULL) != LAM_OK)
            return 1;
    }
    lam_ignore(write(STDOUT_FILENO, "\n", 1) < 0, "the test waits in vain then, and fails");
    for (;;)
        pause();
}

/* From here on io_uring_setup fails, as under the seccomp profiles of container engines. */
static void refuse_io_uring(uint32_t error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(*code), .filter = code};

    assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static uint32_t refusal;

static void refused_engine_falls_back(void **state)
{
    char listen[64], pool_socket[64], text[32];
    const char *addresses[1] = {listen};
    struct lam_loader_config config = {.models = &live_path,
        .n_models = 1,
        .listen = addresses,
        .n_listen = 1,
        .pool_socket = pool_socket,
        .ram = live_share(25, text),
        .share = {.engine = LAM_READER_IO_URING}};
    struct lam_loader *loader = NULL;
    struct pool_worker worker;
    struct lam_err err = {0};

    (void)state;
    refuse_io_uring(refusal);
    snprintf(listen, sizeof(listen), "unix:%s/loader.sock", live_model.dir);
    snprintf(pool_socket, sizeof(pool_socket), "%s/pool.sock", live_model.dir);
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "seccomp"));
    config.share.engine = LAM_READER_AUTO;
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_OK);
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 3);
    assert_string_equal(pool_worker_stats(&worker)->engine, "pread");
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

/* Root may lock what it likes, so that right goes too. */
static void refuse_locked_memory(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct rights[2];
    const struct rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};

    assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    assert_int_equal(syscall(SYS_capget, &header, rights), 0);
    rights[0].effective &= ~(1u << CAP_IPC_LOCK);
    assert_int_equal(syscall(SYS_capset, &header, rights), 0);
}

static void little_locked_memory_is_enough(void **state)
{
    char text[32];
    struct lam_loader *loader;
    struct pool_worker worker;

    (void)state;
    refuse_locked_memory();
    dup2(STDOUT_FILENO, STDERR_FILENO); /* the log, for the parent */
    lam_log_init("loader_test", LAM_LOG_WARN);
    loader = live_start(live_share(50, text), LAM_READER_AUTO);
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 3);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leases_end_with_a_word_or_the_pool_connection),
        cmocka_unit_test(leases_of_a_killed_worker_are_free),
        cmocka_unit_test(nothing_is_left_after_the_end),
        cmocka_unit_test(a_worker_that_begins_at_the_end_waits_for_its_region_alone),
        cmocka_unit_test(a_file_that_changes_is_refused),
        cmocka_unit_test(a_pool_that_cannot_work_names_one_that_can),
        cmocka_unit_test(no_memory_is_a_status),
        cmocka_unit_test(without_io_uring_the_bytes_are_the_same),
        cmocka_unit_test(without_locked_memory_the_bytes_are_the_same),
    };
    const struct CMUnitTest unlocked[] = {cmocka_unit_test(little_locked_memory_is_enough)};
    const struct CMUnitTest refused[] = {cmocka_unit_test(refused_engine_falls_back)};

    lam_log_init("loader_test", LAM_LOG_OFF);
    if (argc == 3 && strcmp(argv[1], "hold") == 0)
        return hold(argv[2]);
    if (argc == 3 && strcmp(argv[1], "seccomp") == 0) {
        refusal = strcmp(argv[2], "EPERM") == 0 ? EPERM : ENOSYS;
        return cmocka_run_group_tests(refused, live_set_up, live_tear_down);
    }
    if (argc == 2 && strcmp(argv[1], "memlock") == 0)
        return cmocka_run_group_tests(unlocked, live_set_up, live_tear_down);
    return cmocka_run_group_tests(tests, live_set_up, live_tear_down);
}
