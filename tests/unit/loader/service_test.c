/*
 * service: the whole loader in this process, over real files, sockets and shared memory, seen by a
 * worker. Started again as "hold DIR" or "seccomp DIR ERRNO" this program is a worker that is going
 * to be killed, or a loader on a machine that refuses io_uring.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "loader/loader.h"
#include "tests/unit/loader/model_file.h"
#include "tests/unit/loader/pool_worker.h"

static struct model_file model;
static struct lam_gguf *gguf;
static struct lam_spec spec;
static struct lam_manifest manifest;

static struct lam_loader *start(const char *ram, enum lam_reader_choice engine)
{
    char listen[64], pool_socket[64];
    const char *addresses[1] = {listen};
    struct lam_loader_config config = {.model = model.path,
        .listen = addresses,
        .n_listen = 1,
        .pool_socket = pool_socket,
        .ram = ram,
        .engine = engine};
    struct lam_loader *loader = NULL;
    struct lam_err err = {0};

    snprintf(listen, sizeof(listen), "unix:%s/loader.sock", model.dir);
    snprintf(pool_socket, sizeof(pool_socket), "%s/pool.sock", model.dir);
    if (lam_loader_create(&config, &loader, &err) != LAM_OK)
        fail_msg("%s", err.text);
    return loader;
}

static void use_model(uint64_t shift)
{
    model_file_make(&model, shift);
    assert_int_equal(
        lam_gguf_parse(model.bytes, model.n_bytes, model.n_bytes, &gguf, NULL), LAM_OK);
    assert_int_equal(lam_spec_read(gguf, &spec, NULL), LAM_OK);
    assert_int_equal(lam_manifest_build(gguf, &spec, &manifest, NULL), LAM_OK);
}

static void drop_model(void)
{
    lam_manifest_done(&manifest);
    lam_gguf_destroy(gguf);
    model_file_remove(&model);
}

static int set_up(void **state)
{
    (void)state;
    use_model(96);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    drop_model();
    return 0;
}

/* A --ram of that share of the model, with room for the alignment. */
static const char *share(uint32_t percent, char text[32])
{
    uint64_t bytes = manifest.unit_bytes_total + manifest.n_units * 8192ull;

    snprintf(text, 32, "%llukib", (unsigned long long)(bytes * percent / 100 / 1024 + 1));
    return text;
}

static void check_unit(const struct pool_worker *worker, const struct pool_event *event)
{
    const struct lam_unit *unit = &manifest.units[event->unit];

    assert_true(event->pool_offset + unit->bytes <= worker->pool_bytes);
    assert_memory_equal(
        worker->pool + event->pool_offset, model.bytes + unit->file_offset, unit->bytes);
}

/* Walks whole passes, one unit at a time like a worker, and compares every byte. */
static void walk(struct pool_worker *worker, uint32_t n_passes)
{
    struct pool_event units[64] = {{0}};
    bool here[64] = {false};

    assert_true(manifest.n_units <= 64);
    pool_worker_credit(worker, 3);
    for (uint32_t pass = 0; pass < n_passes; pass++) {
        for (uint32_t u = 0; u < manifest.n_units; u++) {
            while (!here[u]) {
                struct pool_event event;
                struct lam_err err = {0};

                if (pool_worker_next(worker, &event, &err) != LAM_OK)
                    fail_msg("%s", err.text);
                assert_false(event.fault);
                assert_false(here[event.unit]);
                here[event.unit] = true;
                units[event.unit] = event;
            }
            check_unit(worker, &units[u]);
            if (units[u].kept)
                continue;
            here[u] = false;
            pool_worker_release(worker, u, units[u].generation);
            pool_worker_credit(worker, 1);
        }
    }
}

static uint32_t leases_after(struct pool_worker *observer, uint64_t limit_ns)
{
    uint64_t until = lam_now_ns() + limit_ns;
    uint32_t leases;

    do {
        leases = pool_worker_stats(observer)->leases;
    } while (leases > 0 && lam_now_ns() < until);
    return leases;
}

/* ---- bytes ---- */

static void check_passes(enum lam_reader_choice engine, uint32_t percent)
{
    char text[32];
    struct lam_loader *loader = start(share(percent, text), engine);
    Laminar__V1__GetStatsResponse *stats;
    struct pool_worker worker;
    uint64_t once;

    pool_worker_connect(&worker, model.dir);
    pool_worker_open(&worker);
    walk(&worker, 4);
    stats = pool_worker_stats(&worker);
    once = manifest.unit_bytes_total;
    assert_string_equal(stats->engine, engine == LAM_READER_PREAD ? "pread" : "io_uring");
    assert_int_equal(stats->sessions, 1);
    assert_true(stats->pool_bytes <= once * percent / 100 + manifest.n_units * 8192ull + 4096);
    assert_int_equal(stats->units_kept, stats->units_kept_loaded);
    assert_true(stats->disk_bytes >= once);
    if (percent == 100) {
        assert_int_equal(stats->units_kept, manifest.n_units);
        assert_int_equal(stats->units_loaded, manifest.n_units);
        assert_true(stats->disk_bytes < once + manifest.n_units * 8192ull);
    } else {
        uint64_t streamed = manifest.n_units - stats->units_kept;

        /* Each pass reads what is not kept, and the look-ahead runs on beyond the last one. */
        assert_in_range(stats->units_loaded, stats->units_kept + 4 * streamed,
            stats->units_kept + 4 * streamed + 3);
    }
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void every_byte_of_every_pass_is_that_of_the_file(void **state)
{
    static const uint32_t percents[] = {25, 50, 95, 100};

    (void)state;
    for (size_t i = 0; i < sizeof(percents) / sizeof(*percents); i++) {
        check_passes(LAM_READER_AUTO, percents[i]);
        check_passes(LAM_READER_PREAD, percents[i]);
    }
}

static void units_at_any_alignment_arrive_whole(void **state)
{
    static const uint64_t shifts[] = {0, 32, 4064, 4096};

    (void)state;
    for (size_t i = 0; i < sizeof(shifts) / sizeof(*shifts); i++) {
        drop_model();
        use_model(shifts[i]);
        check_passes(LAM_READER_AUTO, 25);
    }
}

static void two_workers_in_phase_cost_one_read(void **state)
{
    char text[32];
    struct lam_loader *loader = start(share(40, text), LAM_READER_AUTO);
    struct pool_worker workers[2];
    uint32_t streamed;
    Laminar__V1__GetStatsResponse *stats;

    (void)state;
    for (int w = 0; w < 2; w++) {
        pool_worker_connect(&workers[w], model.dir);
        pool_worker_open(&workers[w]);
    }
    stats = pool_worker_stats(&workers[0]);
    streamed = manifest.n_units - stats->units_kept;
    for (int w = 0; w < 2; w++) {
        for (uint32_t i = 0; i < stats->units_kept; i++) {
            struct pool_event event;

            assert_int_equal(pool_worker_next(&workers[w], &event, NULL), LAM_OK);
            assert_true(event.kept);
            check_unit(&workers[w], &event);
        }
    }
    for (uint32_t i = 0; i < 5 * streamed; i++) {
        struct pool_event events[2];

        for (int w = 0; w < 2; w++)
            pool_worker_credit(&workers[w], 1);
        for (int w = 0; w < 2; w++) {
            assert_int_equal(pool_worker_next(&workers[w], &events[w], NULL), LAM_OK);
            check_unit(&workers[w], &events[w]);
        }
        for (int w = 0; w < 2; w++)
            pool_worker_release(&workers[w], events[w].unit, events[w].generation);
    }
    stats = pool_worker_stats(&workers[0]);
    assert_in_range(stats->units_loaded, stats->units_kept + 5 * streamed,
        stats->units_kept + 5 * streamed + 4);
    assert_true(stats->units_hit >= 5 * streamed);
    pool_worker_disconnect(&workers[0]);
    pool_worker_disconnect(&workers[1]);
    lam_loader_destroy(loader);
}

/* ---- the rest of the protocol ---- */

static void the_model_is_described_and_its_header_is_readable(void **state)
{
    struct lam_loader *loader = start("auto", LAM_READER_AUTO);
    Laminar__V1__RegisterModelResponse *it;
    struct pool_worker worker;
    struct lam_err err = {0};
    struct lam_rpc_stream *stream;
    static const unsigned char request[] = {0x08, 0x01}; /* model: 1 */
    struct lam_buf chunk = LAM_BUF(2 << 20);
    uint64_t header_bytes;
    uint64_t have = 0;
    bool end = false;

    (void)state;
    pool_worker_connect(&worker, model.dir);
    it = pool_worker_register(&worker, "", &err);
    assert_non_null(it);
    assert_int_equal(it->model, 1);
    assert_int_equal(it->units, manifest.n_units);
    assert_int_equal(it->unit_bytes_total, manifest.unit_bytes_total);
    assert_int_equal(it->file_bytes, model.n_bytes);
    assert_int_equal(it->header_bytes, lam_gguf_tensor(gguf, 0)->offset);
    assert_int_equal(it->units_kept, manifest.n_units);
    header_bytes = it->header_bytes;
    assert_non_null(pool_worker_register(&worker, model.path, &err));
    assert_null(pool_worker_register(&worker, "/other.gguf", &err));
    assert_int_equal(err.status, LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "/other.gguf"));

    assert_int_equal(lam_rpc_stream_open(worker.channel, "/laminar.v1.Loader/ReadHeader",
                         LAM_RPC_NO_TIMEOUT, &stream, NULL),
        LAM_OK);
    assert_int_equal(lam_rpc_stream_send(stream, request, sizeof(request), NULL), LAM_OK);
    assert_int_equal(lam_rpc_stream_half_close(stream, NULL), LAM_OK);
    for (;;) {
        assert_int_equal(lam_rpc_stream_recv(stream, &chunk, &end, &err), LAM_OK);
        if (end)
            break;
        have += chunk.size;
    }
    /* The chunks and a few bytes of framing each. */
    assert_in_range(have, header_bytes, header_bytes + 32);
    assert_memory_equal(chunk.data + chunk.size - 64, model.bytes + header_bytes - 64, 64);
    lam_buf_done(&chunk);
    lam_rpc_stream_destroy(stream);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void rows_come_from_the_pool_or_from_the_disk(void **state)
{
    static const uint32_t percents[] = {25, 100};
    const struct lam_extent *rows = &manifest.embedding;
    Laminar__V1__ReadExtentResponse *response = NULL;

    (void)state;
    for (size_t p = 0; p < 2; p++) {
        char text[32];
        struct lam_loader *loader = start(share(percents[p], text), LAM_READER_AUTO);
        struct lam_err err = {0};
        struct pool_worker worker;
        uint64_t offsets[512];

        pool_worker_connect(&worker, model.dir);
        for (int repeat = 0; repeat < 2; repeat++) {
            for (uint64_t i = 0; i < 512; i++)
                offsets[i] = rows->file_offset + i * 7919 % rows->n_rows * rows->row_bytes;
            assert_int_equal(
                pool_worker_extent(&worker, offsets, 512, rows->row_bytes, &response, &err),
                LAM_OK);
            assert_int_equal(response->data.len, 512 * rows->row_bytes);
            for (uint64_t i = 0; i < 512; i++)
                assert_memory_equal(response->data.data + i * rows->row_bytes,
                    model.bytes + offsets[i], rows->row_bytes);
        }
        offsets[0] = model.n_bytes - 10;
        assert_int_equal(pool_worker_extent(&worker, offsets, 1, 10, &response, &err), LAM_OK);
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 1, 11, &response, &err), LAM_OUT_OF_RANGE);
        offsets[0] = UINT64_MAX - 3;
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 1, 11, &response, &err), LAM_OUT_OF_RANGE);
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 512, 4096, &response, &err), LAM_INVALID_ARGUMENT);
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 0, 10, &response, &err), LAM_INVALID_ARGUMENT);
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 2, UINT64_MAX / 2 + 1, &response, &err),
            LAM_INVALID_ARGUMENT);
        pool_worker_disconnect(&worker);
        lam_loader_destroy(loader);
    }
}

/* Reads on to the end of the stream and returns how it ended. */
static enum lam_status end_of(struct pool_worker *worker, struct lam_err *err)
{
    struct pool_event event;
    enum lam_status status;

    do
        status = pool_worker_next(worker, &event, err);
    while (status == LAM_OK);
    return status;
}

static void a_stale_release_ends_the_session(void **state)
{
    char text[32];
    struct lam_loader *loader = start(share(25, text), LAM_READER_AUTO);
    struct pool_worker worker;
    struct pool_event event = {.kept = true};
    struct lam_err err = {0};

    (void)state;
    pool_worker_connect(&worker, model.dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 1);
    while (event.kept)
        assert_int_equal(pool_worker_next(&worker, &event, &err), LAM_OK);
    pool_worker_release(&worker, event.unit, event.generation);
    pool_worker_release(&worker, event.unit, event.generation);
    assert_int_equal(end_of(&worker, &err), LAM_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, "generation"));
    assert_int_equal(pool_worker_stats(&worker)->leases, 0);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void sessions_need_a_token_and_come_one_to_a_connection(void **state)
{
    struct lam_loader *loader = start("auto", LAM_READER_AUTO);
    struct pool_worker worker, forger;
    struct lam_err err = {0};

    (void)state;
    pool_worker_connect(&worker, model.dir);
    pool_worker_connect(&forger, model.dir);
    pool_worker_open(&worker);
    walk(&worker, 1);

    memcpy(forger.token, worker.token, sizeof(forger.token));
    pool_worker_open(&forger);
    assert_int_equal(end_of(&forger, &err), LAM_FAILED_PRECONDITION);
    lam_rpc_stream_destroy(forger.stream);
    forger.token[3] ^= 1;
    pool_worker_open(&forger);
    assert_int_equal(end_of(&forger, &err), LAM_PERMISSION_DENIED);

    walk(&worker, 0);
    assert_int_equal(pool_worker_stats(&worker)->sessions, 1);
    pool_worker_disconnect(&forger);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

/* ---- ends ---- */

static void leases_end_with_the_stream_or_the_pool_connection(void **state)
{
    char text[32];
    struct lam_loader *loader = start(share(40, text), LAM_READER_AUTO);
    struct pool_worker observer;
    struct lam_err err = {0};

    (void)state;
    pool_worker_connect(&observer, model.dir);
    for (int round = 0; round < 20; round++) {
        struct pool_worker worker;
        struct pool_event event = {.kept = true};

        pool_worker_connect(&worker, model.dir);
        pool_worker_open(&worker);
        pool_worker_credit(&worker, 2);
        while (event.kept)
            assert_int_equal(pool_worker_next(&worker, &event, &err), LAM_OK);
        assert_true(pool_worker_stats(&observer)->leases > 0);
        if (round % 2 == 0) {
            lam_rpc_stream_cancel(worker.stream);
        } else {
            close(worker.connection);
            worker.connection = -1;
            assert_int_equal(end_of(&worker, &err), LAM_UNAVAILABLE);
        }
        assert_int_equal(leases_after(&observer, LAM_NS_PER_S), 0);
        assert_int_equal(pool_worker_stats(&observer)->sessions, 0);
        pool_worker_disconnect(&worker);
    }
    /* And whoever comes next gets everything. */
    pool_worker_open(&observer);
    walk(&observer, 2);
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

static void leases_of_a_killed_worker_are_free_at_once(void **state)
{
    char text[32];
    struct lam_loader *loader = start(share(40, text), LAM_READER_AUTO);
    struct pool_worker observer;

    (void)state;
    pool_worker_connect(&observer, model.dir);
    for (int round = 0; round < 5; round++) {
        char *argv[] = {"service_test", "hold", model.dir, NULL};
        int fd;
        pid_t pid = start_self(argv, &fd);
        uint64_t killed_ns;
        char line;

        assert_int_equal(read(fd, &line, 1), 1);
        assert_true(pool_worker_stats(&observer)->leases > 0);
        killed_ns = lam_now_ns();
        kill(pid, SIGKILL);
        assert_int_equal(leases_after(&observer, LAM_NS_PER_S), 0);
        assert_true(lam_now_ns() - killed_ns < 500 * LAM_NS_PER_MS);
        waitpid(pid, NULL, 0);
        close(fd);
    }
    pool_worker_open(&observer);
    walk(&observer, 1);
    pool_worker_disconnect(&observer);
    lam_loader_destroy(loader);
}

static void nothing_is_left_after_the_end(void **state)
{
    struct lam_loader *loader = start("auto", LAM_READER_AUTO);
    struct pool_worker worker;
    char path[64];
    struct stat info;
    struct lam_err err = {0};

    (void)state;
    pool_worker_connect(&worker, model.dir);
    pool_worker_open(&worker);
    walk(&worker, 1);
    lam_loader_destroy(loader); /* under a worker that is connected */
    assert_true(end_of(&worker, &err) != LAM_OK);
    snprintf(path, sizeof(path), "%s/pool.sock", model.dir);
    assert_int_equal(stat(path, &info), -1);
    snprintf(path, sizeof(path), "%s/loader.sock", model.dir);
    assert_int_equal(stat(path, &info), -1);
    /* The worker's mapping outlives the loader: what it holds stays readable. */
    assert_true(worker.pool[0] == worker.pool[0]);
    pool_worker_disconnect(&worker);
}

/* ---- trouble ---- */

static void a_file_that_changes_is_refused(void **state)
{
    char text[32];
    struct lam_loader *loader = start(share(25, text), LAM_READER_AUTO);
    struct pool_worker worker;
    struct pool_event event = {0};
    struct lam_err err = {0};
    FILE *file;

    (void)state;
    pool_worker_connect(&worker, model.dir);
    pool_worker_open(&worker);
    walk(&worker, 1);
    file = fopen(model.path, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)model.n_bytes - 100, SEEK_SET), 0);
    assert_int_equal(fputc('x', file), 'x');
    fclose(file);
    /* What was read before may still come; what is read after must not. */
    for (uint32_t i = 0; i < 8 && !event.fault; i++) {
        assert_int_equal(pool_worker_next(&worker, &event, &err), LAM_OK);
        if (!event.fault) {
            pool_worker_release(&worker, event.unit, event.generation);
            pool_worker_credit(&worker, 1);
        }
    }
    assert_true(event.fault);
    assert_int_equal(event.status, LAM_DATA_LOSS);
    assert_non_null(strstr(event.reason, "changed"));
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
    drop_model();
    use_model(96);
}

static void a_pool_that_cannot_work_names_one_that_can(void **state)
{
    struct lam_loader_config config = {.model = model.path, .ram = "100KiB", .pool_socket = "/x"};
    struct lam_loader *loader = NULL;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "--ram"));
    config.ram = "lots";
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_INVALID_ARGUMENT);
    config.ram = "auto";
    config.model = model.dir;
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "is a directory"));
}

static void without_io_uring_the_bytes_are_the_same(void **state)
{
    static char *const errors[] = {"EPERM", "ENOSYS"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        char *argv[] = {"service_test", "seccomp", errors[i], NULL};
        int fd;
        pid_t pid = start_self(argv, &fd);
        int status = -1;

        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        close(fd);
    }
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
    struct lam_loader_config config = {.model = model.path,
        .listen = addresses,
        .n_listen = 1,
        .pool_socket = pool_socket,
        .ram = share(25, text),
        .engine = LAM_READER_IO_URING};
    struct lam_loader *loader = NULL;
    struct pool_worker worker;
    struct lam_err err = {0};

    (void)state;
    refuse_io_uring(refusal);
    snprintf(listen, sizeof(listen), "unix:%s/loader.sock", model.dir);
    snprintf(pool_socket, sizeof(pool_socket), "%s/pool.sock", model.dir);
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "seccomp"));
    config.engine = LAM_READER_AUTO;
    assert_int_equal(lam_loader_create(&config, &loader, &err), LAM_OK);
    pool_worker_connect(&worker, model.dir);
    pool_worker_open(&worker);
    walk(&worker, 3);
    assert_string_equal(pool_worker_stats(&worker)->engine, "pread");
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_of_every_pass_is_that_of_the_file),
        cmocka_unit_test(units_at_any_alignment_arrive_whole),
        cmocka_unit_test(two_workers_in_phase_cost_one_read),
        cmocka_unit_test(the_model_is_described_and_its_header_is_readable),
        cmocka_unit_test(rows_come_from_the_pool_or_from_the_disk),
        cmocka_unit_test(a_stale_release_ends_the_session),
        cmocka_unit_test(sessions_need_a_token_and_come_one_to_a_connection),
        cmocka_unit_test(leases_end_with_the_stream_or_the_pool_connection),
        cmocka_unit_test(leases_of_a_killed_worker_are_free_at_once),
        cmocka_unit_test(nothing_is_left_after_the_end),
        cmocka_unit_test(a_file_that_changes_is_refused),
        cmocka_unit_test(a_pool_that_cannot_work_names_one_that_can),
        cmocka_unit_test(without_io_uring_the_bytes_are_the_same),
    };
    const struct CMUnitTest refused[] = {cmocka_unit_test(refused_engine_falls_back)};

    lam_log_init("service_test", LAM_LOG_OFF);
    if (argc == 3 && strcmp(argv[1], "hold") == 0)
        return hold(argv[2]);
    if (argc == 3 && strcmp(argv[1], "seccomp") == 0) {
        refusal = strcmp(argv[2], "EPERM") == 0 ? EPERM : ENOSYS;
        return cmocka_run_group_tests(refused, set_up, tear_down);
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
