/* ops: a real HTTP client in a few lines asks the real port; and ours, that of lam_ops_get. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "rpc/ops.h"

#define TIMEOUT_NS (60 * LAM_NS_PER_S) /* or it hangs */
#define RECORDING_S 5                  /* for two questions meanwhile, on a busy machine too */
#define RECORDING "/trace?seconds=5"

static const char *reason;

static bool write_metrics(void *arg, struct lam_buf *out)
{
    return lam_buf_text(out, arg);
}

static const char *unhealthy(void *arg)
{
    (void)arg;
    return reason;
}

static struct lam_ops *start_at(const char *listen, const struct lam_trace_mark *record)
{
    struct lam_ops_config config = {
        .listen = listen,
        .process = "laminar-test",
        .record = record,
        .arg = (void *)(uintptr_t) "x 1\n",
        .write_metrics = write_metrics,
        .unhealthy = unhealthy,
    };
    struct lam_ops *ops = NULL;
    struct lam_err err = {0};

    assert_int_equal(lam_ops_start(&config, &ops, &err), LAM_OK);
    return ops;
}

static struct lam_ops *start(void)
{
    return start_at("127.0.0.1:0", NULL);
}

/* Sends `request`, reads to the end of the connection. */
static void ask(int port, const char *request, char *answer, size_t answer_bytes)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr = {htonl(INADDR_LOOPBACK)},
    };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t used = 0;
    ssize_t got;

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    while ((got = read(fd, answer + used, answer_bytes - used - 1)) > 0)
        used += (size_t)got;
    answer[used] = '\0';
    close(fd);
}

static void answers_metrics_health_and_nothing_else(void **state)
{
    static const struct {
        const char *request;
        const char *expected;
    } cases[] = {
        {"GET /metrics HTTP/1.0\r\n\r\n", "\r\n\r\nx 1\n"},
        {"GET /healthz HTTP/1.0\r\n\r\n", " 200 "},
        {"GET /etc/passwd HTTP/1.0\r\n\r\n", " 404 "},
        {"POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n", " 405 "},
    };
    struct lam_ops *ops = start();
    char answer[2048];

    (void)state;
    reason = NULL;
    ask(lam_ops_port(ops), "\x01\x02garbage\r\n\r\n", answer, sizeof answer); /* hurts nobody */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ask(lam_ops_port(ops), cases[i].request, answer, sizeof answer);
        if (!strstr(answer, cases[i].expected))
            fail_msg("'%s' was answered by '%s'", cases[i].request, answer);
    }
    reason = "no worker";
    ask(lam_ops_port(ops), cases[1].request, answer, sizeof answer);
    assert_non_null(strstr(answer, " 503 "));
    assert_non_null(strstr(answer, "no worker"));
    lam_ops_stop(ops);
}

static void refuses_bad_and_taken_addresses(void **state)
{
    static const char *const bad[] = {"", ":", "127.0.0.1", "127.0.0.1:", ":9000", "127.0.0.1:x"};
    struct lam_ops *ops = start();
    struct lam_ops *second = NULL;
    char taken[32];
    struct lam_ops_config config = {.write_metrics = write_metrics, .unhealthy = unhealthy};
    struct lam_err err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        config.listen = bad[i];
        assert_int_equal(lam_ops_start(&config, &second, &err), LAM_INVALID_ARGUMENT);
    }
    snprintf(taken, sizeof taken, "127.0.0.1:%d", lam_ops_port(ops));
    config.listen = taken;
    assert_int_equal(lam_ops_start(&config, &second, &err), LAM_ALREADY_EXISTS);
    assert_non_null(strstr(err.text, taken));
    assert_null(second);
    lam_ops_stop(ops);
}

/* An answer of lam_ops_get. */
struct got {
    enum lam_status status;
    struct lam_err err;
    struct lam_buf body;
};

static struct got get(const char *address, const char *path, uint64_t timeout_ns)
{
    struct got got = {.body = LAM_BUF(1 << 16)};

    got.status = lam_ops_get(address, path, timeout_ns, &got.body, &got.err);
    return got;
}

static void got_is(struct got *got, enum lam_status status, const char *text)
{
    const char *where = got->status == LAM_OK ? got->body.data : got->err.text;

    if (got->status != status || !strstr(where, text))
        fail_msg("status %d, '%s'; wanted %d, '%s'", got->status, where, status, text);
    lam_buf_done(&got->body);
}

/* A second one asks through a Unix socket, while the first records. */
struct asker {
    pthread_t thread;
    char address[128];
    struct got got;
};

static void *ask_for_trace(void *arg)
{
    struct asker *asker = arg;

    asker->got = get(asker->address, RECORDING, TIMEOUT_NS);
    return NULL;
}

static void begin_asking(struct asker *asker)
{
    uint64_t give_up_ns = lam_now_ns() + TIMEOUT_NS;

    assert_int_equal(pthread_create(&asker->thread, NULL, ask_for_trace, asker), 0);
    while (!lam_trace_on() && lam_now_ns() < give_up_ns)
        lam_sleep_ns(LAM_NS_PER_MS);
    assert_true(lam_trace_on());
}

static void make_address(char address[128], char folder[64])
{
    snprintf(folder, 64, "/tmp/ops_test_XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(address, 128, "unix:%s/ops.sock", folder);
}

/* The port goes on answering meanwhile; spans from before and after the recording are not in it. */
static void records_for_a_while(void **state)
{
    struct asker asker;
    struct lam_ops *ops;
    struct got got;
    uint64_t begin_ns = lam_now_ns();
    char folder[64];

    (void)state;
    reason = NULL;
    make_address(asker.address, folder);
    ops = start_at(asker.address, NULL);
    assert_int_equal(lam_ops_port(ops), 0);
    begin_asking(&asker);
    lam_trace_end(LAM_TRACE_DISK, "early", begin_ns, 1, 1, 1);
    lam_trace_end(LAM_TRACE_DISK, "read", lam_trace_begin(), 5, 6, 7);
    got = get(asker.address, "/healthz", TIMEOUT_NS);
    got_is(&got, LAM_OK, "ok");
    got = get(asker.address, RECORDING, TIMEOUT_NS);
    got_is(&got, LAM_FAILED_PRECONDITION, "409: a recording is running");
    pthread_join(asker.thread, NULL);
    assert_false(lam_trace_on());
    assert_true(lam_now_ns() - begin_ns >= RECORDING_S * LAM_NS_PER_S);
    assert_null(strstr(asker.got.body.data, "early"));
    assert_non_null(strstr(asker.got.body.data, "\"laminar-test\""));
    got_is(&asker.got, LAM_OK, "\"args\":{\"unit\":5,\"slot\":6,\"bytes\":7}}\n]");
    lam_ops_stop(ops);
    assert_int_equal(rmdir(folder), 0); /* the socket is gone */
}

/* Who asks must neither hold up the end of the process nor block the port when he goes away. */
static void a_recording_ends_with_the_port_or_its_asker(void **state)
{
    struct asker asker;
    struct lam_ops *ops;
    struct got got;
    char folder[64];

    (void)state;
    make_address(asker.address, folder);
    ops = start_at(asker.address, NULL);
    got = get(asker.address, RECORDING, LAM_NS_PER_MS * 50);
    got_is(&got, LAM_DEADLINE_EXCEEDED, "does not answer in time"); /* and hangs up */
    while (lam_trace_on())
        lam_sleep_ns(LAM_NS_PER_MS);
    got = get(asker.address, "/trace?seconds=x", TIMEOUT_NS); /* the port goes on */
    got_is(&got, LAM_FAILED_PRECONDITION, "400: say for how long");
    begin_asking(&asker);
    lam_ops_stop(ops);
    assert_false(lam_trace_on());
    pthread_join(asker.thread, NULL);
    lam_buf_done(&asker.got.body);
    assert_int_equal(rmdir(folder), 0);
}

static void answers_at_once_when_it_records_from_the_start(void **state)
{
    struct lam_trace_mark mark = lam_trace_start();
    struct lam_ops *ops = start_at("127.0.0.1:0", &mark);
    char address[32];
    struct got got;

    (void)state;
    snprintf(address, sizeof address, "127.0.0.1:%d", lam_ops_port(ops));
    lam_trace_end(LAM_TRACE_PASS, "pass", lam_trace_begin(), 5, 6, 7);
    got = get(address, "/trace", TIMEOUT_NS);
    got_is(&got, LAM_OK, "\"name\":\"pass\"");
    lam_ops_stop(ops);
    lam_trace_stop();
}

/* Every allocation of a trace's answer fails once, on either side of the connection. */
static void without_memory_the_port_goes_on(void **state)
{
    struct lam_trace_mark mark = lam_trace_start();
    struct lam_ops *ops = start_at("127.0.0.1:0", &mark);
    uint64_t nth = 0;
    char address[32];
    struct got got;

    (void)state;
    snprintf(address, sizeof address, "127.0.0.1:%d", lam_ops_port(ops));
    lam_trace_end(LAM_TRACE_PASS, "pass", lam_trace_begin(), 5, 6, 7);
    do {
        lam_fault_arm("alloc", ++nth);
        got = get(address, "/trace", TIMEOUT_NS);
        if (lam_fault_fired() && got.status != LAM_RESOURCE_EXHAUSTED)
            got_is(&got, LAM_FAILED_PRECONDITION, "503: no memory");
        lam_buf_done(&got.body);
    } while (lam_fault_fired());
    lam_fault_arm("alloc", 0);
    assert_int_equal(got.status, LAM_OK);
    assert_true(nth > 3);
    lam_ops_stop(ops);
    lam_trace_stop();
}

/* Plays a server that sends these bytes and hangs up. */
struct liar {
    int fd;
    const char *bytes;
};

static void *lie(void *arg)
{
    const struct liar *liar = arg;
    int fd = accept(liar->fd, NULL, NULL);
    char request[512];

    assert_true(read(fd, request, sizeof request) > 0);
    assert_int_equal(write(fd, liar->bytes, strlen(liar->bytes)), (ssize_t)strlen(liar->bytes));
    close(fd);
    return NULL;
}

static void hostile_answers_are_named(void **state)
{
    static const struct {
        const char *bytes;
        enum lam_status status;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", LAM_OK},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", LAM_DATA_LOSS},
        {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok", LAM_DATA_LOSS},
        {"HTTP/1.1 200 OK\r\n\r\nok", LAM_DATA_LOSS},
        {"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nok", LAM_FAILED_PRECONDITION},
        {"HTTP/1.1 x\r\nContent-Length: 2\r\n\r\nok", LAM_DATA_LOSS},
        {"SSH-2.0\r\n", LAM_DATA_LOSS},
        {"", LAM_DATA_LOSS},
    };
    struct sockaddr_in native = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof native;
    struct liar liar = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    char address[32];

    (void)state;
    assert_int_equal(bind(liar.fd, (struct sockaddr *)&native, length), 0);
    assert_int_equal(getsockname(liar.fd, (struct sockaddr *)&native, &length), 0);
    assert_int_equal(listen(liar.fd, 1), 0);
    snprintf(address, sizeof address, "127.0.0.1:%d", ntohs(native.sin_port));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pthread_t thread;
        struct got got;

        liar.bytes = cases[i].bytes;
        assert_int_equal(pthread_create(&thread, NULL, lie, &liar), 0);
        got = get(address, "/metrics", TIMEOUT_NS);
        pthread_join(thread, NULL);
        if (got.status != cases[i].status)
            fail_msg("case %zu: status %d: %s", i, got.status, got.err.text);
        lam_buf_done(&got.body);
    }
    close(liar.fd);
}

static void nobody_there_is_named(void **state)
{
    struct got got = get("unix:/nowhere/ops.sock", "/metrics", TIMEOUT_NS);

    (void)state;
    got_is(&got, LAM_UNAVAILABLE, "nobody answers on unix:/nowhere/ops.sock");
    got = get("127.0.0.1:1", "/metrics", TIMEOUT_NS);
    got_is(&got, LAM_UNAVAILABLE, "give the service --ops");
    got = get("here", "/metrics", TIMEOUT_NS);
    got_is(&got, LAM_INVALID_ARGUMENT, "'here' is no address");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_metrics_health_and_nothing_else),
        cmocka_unit_test(refuses_bad_and_taken_addresses),
        cmocka_unit_test(records_for_a_while),
        cmocka_unit_test(a_recording_ends_with_the_port_or_its_asker),
        cmocka_unit_test(answers_at_once_when_it_records_from_the_start),
        cmocka_unit_test(without_memory_the_port_goes_on),
        cmocka_unit_test(hostile_answers_are_named),
        cmocka_unit_test(nobody_there_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
