/* Tests of rpc/client.h where there is no good server at the other end, and of memory that runs
 * out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "tests/unit/rpc/echo.h"

#define SOON (60 * LAM_NS_PER_S) /* or it hangs */

static void a_missing_peer_is_named(void **state)
{
    struct lam_rpc_channel *channel = NULL;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    char address[128];
    uint64_t begin_ns = lam_now_ns();

    (void)state;
    echo_address(address, "nobody");
    assert_int_equal(lam_rpc_channel_create(address, 1 << 20, &channel, &err), LAM_OK);
    assert_int_equal(
        lam_rpc_unary(channel, ECHO_UNARY, "x", 1, SOON, &answer, &err), LAM_UNAVAILABLE);
    assert_non_null(strstr(err.text, address));
    assert_int_equal(lam_rpc_stream_open(channel, ECHO_BIDI, SOON, &stream, &err), LAM_UNAVAILABLE);
    assert_non_null(strstr(err.text, address));
    assert_true(lam_now_ns() - begin_ns < SOON);
    err.text[0] = '\0';
    assert_int_equal(
        lam_rpc_channel_wait_ready(channel, 300 * LAM_NS_PER_MS, &err), LAM_UNAVAILABLE);
    assert_non_null(strstr(err.text, address));
    /* A worker that was to stop dialled for a second on. */
    assert_int_equal(lam_rpc_channel_reach(channel, LAM_RPC_NO_TIMEOUT, &err), LAM_UNAVAILABLE);
    assert_non_null(strstr(err.text, address));
    lam_rpc_channel_destroy(channel);
    lam_buf_done(&answer);
}

static void bad_targets_are_refused(void **state)
{
    static const char *const bad[] = {
        "", "localhost", "localhost:0", "localhost:x", "unix:", "a/b:1"};
    struct lam_rpc_channel *channel = NULL;
    struct lam_err err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(
            lam_rpc_channel_create(bad[i], 1 << 20, &channel, &err), LAM_INVALID_ARGUMENT);
    assert_null(channel);
}

static void *start_later(void *echo)
{
    lam_sleep_ns(300 * LAM_NS_PER_MS);
    echo_start(echo, "late");
    return NULL;
}

/* Processes start in any order: the worker waits for the loader's socket to appear. */
static void waits_for_a_server_that_comes_later(void **state)
{
    struct echo echo;
    struct lam_rpc_channel *channel = NULL;
    struct lam_err err = {0};
    char address[128];
    pthread_t thread;

    (void)state;
    echo_address(address, "late");
    assert_int_equal(lam_rpc_channel_create(address, 1 << 20, &channel, &err), LAM_OK);
    assert_int_equal(pthread_create(&thread, NULL, start_later, &echo), 0);
    assert_int_equal(lam_rpc_channel_wait_ready(channel, SOON, &err), LAM_OK);
    pthread_join(thread, NULL);
    lam_rpc_channel_destroy(channel);
    echo_stop(&echo);
}

static void reconnects_to_a_restarted_server(void **state)
{
    struct echo echo;
    struct lam_rpc_channel *channel = NULL;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};

    (void)state;
    echo_start(&echo, "again");
    assert_int_equal(lam_rpc_channel_create(echo.address, 1 << 20, &channel, &err), LAM_OK);
    assert_int_equal(lam_rpc_unary(channel, ECHO_UNARY, "1", 1, SOON, &answer, &err), LAM_OK);
    echo_stop(&echo);
    assert_int_equal(
        lam_rpc_unary(channel, ECHO_UNARY, "2", 1, SOON, &answer, &err), LAM_UNAVAILABLE);
    echo_start(&echo, "again");
    assert_int_equal(lam_rpc_channel_wait_ready(channel, SOON, &err), LAM_OK);
    assert_int_equal(lam_rpc_channel_reach(channel, SOON, &err), LAM_OK);
    assert_int_equal(lam_rpc_unary(channel, ECHO_UNARY, "3", 1, SOON, &answer, &err), LAM_OK);
    assert_string_equal(answer.data, "13");
    lam_rpc_channel_destroy(channel);
    lam_buf_done(&answer);
    echo_stop(&echo);
}

static void answers_larger_than_agreed_are_refused(void **state)
{
    static char block[100000];
    struct echo echo;
    struct lam_rpc_channel *channel = NULL;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_buf small = LAM_BUF(10);
    struct lam_err err = {0};

    (void)state;
    echo_start(&echo, "larger");
    assert_int_equal(lam_rpc_channel_create(echo.address, 50000, &channel, &err), LAM_OK);
    assert_int_equal(lam_rpc_unary(channel, ECHO_UNARY, block, sizeof block, SOON, &answer, &err),
        LAM_RESOURCE_EXHAUSTED);
    /* A message that the caller's own buffer does not take. */
    assert_int_equal(
        lam_rpc_unary(channel, ECHO_UNARY, block, 100, SOON, &small, &err), LAM_RESOURCE_EXHAUSTED);
    lam_rpc_channel_destroy(channel);
    lam_buf_done(&answer);
    lam_buf_done(&small);
    echo_stop(&echo);
}

static void destroy_without_reading_cancels(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_err err = {0};

    (void)state;
    echo_start(&echo, "drop");
    assert_int_equal(lam_rpc_stream_open(echo.channel, ECHO_HOLD, SOON, &stream, &err), LAM_OK);
    assert_true(echo_reaches(&echo.opened, 1));
    lam_rpc_stream_destroy(stream);
    assert_true(echo_reaches(&echo.done, 1));
    assert_int_equal(echo.cancelled, 1);
    echo_stop(&echo);
}

/* One conversation with a server of its own. All may fail, nothing may crash, hang or leak. */
static void converse(void)
{
    static const struct lam_rpc_method none = {.path = "/test.None/None"};
    char address[128];
    const char *listen_to = address;
    const struct lam_rpc_server_config config = {
        .listen = &listen_to,
        .n_listen = 1,
        .message_bytes_max = 1 << 20,
        .calls_max = 10,
    };
    struct lam_rpc_server *server = NULL;
    struct lam_rpc_channel *channel = NULL;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    bool end = false;

    echo_address(address, "fault");
    if (lam_rpc_server_create(&config, &server, &err) != LAM_OK)
        return;
    if (lam_rpc_server_add(server, &none, 1, NULL, &err) != LAM_OK ||
        lam_rpc_server_add_standard(server, &err) != LAM_OK ||
        lam_rpc_server_start(server, &err) != LAM_OK ||
        lam_rpc_channel_create(address, 1 << 20, &channel, &err) != LAM_OK)
        goto end;
    lam_ignore(lam_rpc_unary(channel, "/grpc.health.v1.Health/Check", "", 0, SOON, &answer, &err),
        "may fail");
    if (lam_rpc_stream_open(channel, "/grpc.health.v1.Health/Watch", SOON, &stream, &err) ==
        LAM_OK) {
        lam_ignore(lam_rpc_stream_send(stream, "", 0, &err), "may fail");
        lam_ignore(lam_rpc_stream_recv(stream, &answer, &end, &err), "may fail");
    }
    lam_rpc_stream_destroy(stream);
    if (lam_rpc_stream_open(channel, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            SOON, &stream, &err) == LAM_OK) {
        lam_ignore(lam_rpc_stream_send(stream, "\x3a\x01*", 3, &err), "may fail");
        lam_ignore(lam_rpc_stream_recv(stream, &answer, &end, &err), "may fail");
        lam_rpc_stream_destroy(stream);
    }
end:
    lam_rpc_channel_destroy(channel);
    lam_rpc_server_shutdown(server, 0);
    lam_rpc_server_destroy(server);
    lam_buf_done(&answer);
}

static void every_failed_allocation_is_survived(void **state)
{
    uint64_t n = 0;

    (void)state;
    do {
        lam_fault_arm("alloc", ++n);
        converse();
    } while (lam_fault_fired());
    lam_fault_arm("alloc", 0);
    assert_true(n > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_peer_is_named),
        cmocka_unit_test(bad_targets_are_refused),
        cmocka_unit_test(waits_for_a_server_that_comes_later),
        cmocka_unit_test(reconnects_to_a_restarted_server),
        cmocka_unit_test(answers_larger_than_agreed_are_refused),
        cmocka_unit_test(destroy_without_reading_cancels),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
