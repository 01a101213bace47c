/* Tests of rpc/server.h, with rpc/client.h as the other end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/mem.h"
#include "tests/unit/rpc/echo.h"

#define SOON ECHO_TIMEOUT_NS

/* A unary call; returns its status. */
static enum lam_status ask(struct echo *echo, const char *path, const char *text,
    struct lam_buf *answer, struct lam_err *err)
{
    lam_buf_clear(answer);
    return lam_rpc_unary(echo->channel, path, text, strlen(text), SOON, answer, err);
}

static void unary_call_echoes(void **state)
{
    struct echo echo;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};

    (void)state;
    echo_start(&echo, "unary");
    assert_int_equal(ask(&echo, ECHO_UNARY, "hello", &answer, &err), LAM_OK);
    assert_string_equal(answer.data, "hello");
    assert_int_equal(ask(&echo, ECHO_UNARY, "", &answer, &err), LAM_OK);
    assert_int_equal(answer.size, 0);
    assert_true(echo_reaches(&echo.done, 2));
    assert_int_equal(echo.cancelled, 0);
    lam_buf_done(&answer);
    echo_stop(&echo);
}

static void unary_latency_is_reported(void **state)
{
    enum { CALLS = 2000 };
    struct echo echo;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    uint64_t begin_ns;

    (void)state;
    echo_start(&echo, "latency");
    assert_int_equal(ask(&echo, ECHO_UNARY, "warm", &answer, &err), LAM_OK);
    begin_ns = lam_now_ns();
    for (int i = 0; i < CALLS; i++)
        assert_int_equal(ask(&echo, ECHO_UNARY, "hello", &answer, &err), LAM_OK);
    print_message("unary echo: %.1f us\n", (double)(lam_now_ns() - begin_ns) / CALLS / 1000);
    lam_buf_done(&answer);
    echo_stop(&echo);
}

static void server_stream_keeps_order_over_10000_messages(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    bool end = false;
    char expected[32];

    (void)state;
    echo_start(&echo, "many");
    echo_open(&echo, ECHO_MANY, &stream);
    assert_int_equal(lam_rpc_stream_send(stream, "10000", 5, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_half_close(stream, &err), LAM_OK);
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
        assert_false(end);
        snprintf(expected, sizeof expected, "%d", i);
        assert_string_equal(message.data, expected);
    }
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_true(end);
    /* The end stays the end. */
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_true(end);
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

static void bidi_alternates_and_ends_at_half_close(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    bool end = false;

    (void)state;
    echo_start(&echo, "bidi");
    echo_open(&echo, ECHO_BIDI, &stream);
    for (int i = 0; i < 500; i++) {
        char text[32];
        int length = snprintf(text, sizeof text, "message %d", i);
        assert_int_equal(lam_rpc_stream_send(stream, text, (size_t)length, &err), LAM_OK);
        assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
        assert_false(end);
        assert_string_equal(message.data, text);
    }
    assert_int_equal(lam_rpc_stream_half_close(stream, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_true(end);
    assert_int_equal(echo.half_closed, 1);
    assert_true(echo_reaches(&echo.done, 1));
    assert_int_equal(echo.cancelled, 0);
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

static void messages_up_to_the_limit_arrive_whole(void **state)
{
    struct echo echo;
    struct lam_buf answer = LAM_BUF(ECHO_MESSAGE_BYTES_MAX);
    struct lam_err err = {0};
    char *big = lam_calloc(ECHO_MESSAGE_BYTES_MAX + 1, 1);

    (void)state;
    for (size_t i = 0; i <= ECHO_MESSAGE_BYTES_MAX; i++)
        big[i] = (char)(i * 31 >> 3);
    echo_start(&echo, "big");
    assert_int_equal(
        lam_rpc_unary(echo.channel, ECHO_UNARY, big, ECHO_MESSAGE_BYTES_MAX, SOON, &answer, &err),
        LAM_OK);
    assert_int_equal(answer.size, ECHO_MESSAGE_BYTES_MAX);
    assert_memory_equal(answer.data, big, ECHO_MESSAGE_BYTES_MAX);
    /* One byte more is refused, and the service never sees it. */
    assert_int_equal(lam_rpc_unary(echo.channel, ECHO_UNARY, big, ECHO_MESSAGE_BYTES_MAX + 1, SOON,
                         &answer, &err),
        LAM_RESOURCE_EXHAUSTED);
    assert_true(echo_reaches(&echo.done, 2));
    assert_int_equal(echo.cancelled, 1);
    lam_free(big);
    lam_buf_done(&answer);
    echo_stop(&echo);
}

/* With registered methods only, the core let an unknown method hang until its deadline. */
static void unknown_method_is_answered_at_once(void **state)
{
    struct echo echo;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    uint64_t begin_ns = lam_now_ns();

    (void)state;
    echo_start(&echo, "unknown");
    assert_int_equal(ask(&echo, "/test.Echo/Nope", "", &answer, &err), LAM_UNIMPLEMENTED);
    assert_int_equal(ask(&echo, "/x", "", &answer, &err), LAM_UNIMPLEMENTED);
    assert_true(lam_now_ns() - begin_ns < SOON);
    lam_buf_done(&answer);
    echo_stop(&echo);
}

static void status_and_text_reach_the_client(void **state)
{
    struct echo echo;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    char text[1500];

    (void)state;
    echo_start(&echo, "status");
    assert_int_equal(ask(&echo, ECHO_FAIL, "caf\xc3\xa9 100% \xe2\x82\xac", &answer, &err),
        LAM_FAILED_PRECONDITION);
    assert_string_equal(err.text, "caf\xc3\xa9 100% \xe2\x82\xac");
    assert_int_equal(ask(&echo, ECHO_FAIL, "a\nb\x01\xff", &answer, &err), LAM_FAILED_PRECONDITION);
    assert_string_equal(err.text, "a?b??");
    /* A long text is cut between characters, and the call still ends. */
    for (size_t i = 0; i + 2 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa9", 2);
    text[1498] = '\0';
    assert_int_equal(ask(&echo, ECHO_FAIL, text, &answer, &err), LAM_FAILED_PRECONDITION);
    assert_true(strlen(err.text) > 300 && strlen(err.text) % 2 == 0);
    assert_memory_equal(err.text, text, strlen(err.text));
    lam_buf_done(&answer);
    echo_stop(&echo);
}

static void cancel_reaches_the_service(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    bool end = false;

    (void)state;
    echo_start(&echo, "cancel");
    echo_open(&echo, ECHO_HOLD, &stream);
    assert_true(echo_reaches(&echo.opened, 1));
    lam_rpc_stream_cancel(stream);
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_CANCELLED);
    assert_int_equal(lam_rpc_stream_send(stream, "x", 1, &err), LAM_UNAVAILABLE);
    assert_true(echo_reaches(&echo.done, 1));
    assert_int_equal(echo.cancelled, 1);
    /* The held pointer is alive; the call behind it is not. */
    assert_false(lam_rpc_call_send(echo.held, "late", 4));
    lam_rpc_call_finish(echo.held, LAM_OK, NULL);
    assert_int_equal(lam_rpc_call_queued(echo.held), 0);
    assert_non_null(lam_rpc_call_peer(echo.held));
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

static void *cancel_later(void *stream)
{
    lam_sleep_ns(50 * LAM_NS_PER_MS);
    lam_rpc_stream_cancel(stream);
    return NULL;
}

static void cancel_wakes_a_blocked_reader(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    pthread_t thread;
    bool end = false;

    (void)state;
    echo_start(&echo, "nudge");
    echo_open(&echo, ECHO_HOLD, &stream);
    assert_int_equal(pthread_create(&thread, NULL, cancel_later, stream), 0);
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_CANCELLED);
    pthread_join(thread, NULL);
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

static void deadline_ends_both_sides(void **state)
{
    struct echo echo;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    uint64_t give_up_ns = lam_now_ns() + SOON;

    (void)state;
    echo_start(&echo, "deadline");
    assert_int_equal(
        lam_rpc_unary(echo.channel, ECHO_HOLD, "", 0, 200 * LAM_NS_PER_MS, &answer, &err),
        LAM_DEADLINE_EXCEEDED);
    assert_true(echo_reaches(&echo.done, 1));
    assert_int_equal(echo.cancelled, 1);
    /* The client's own clock may be first: ours begins when the call arrives. */
    assert_in_range(lam_rpc_call_time_left_ns(echo.held), 0, 200 * LAM_NS_PER_MS);
    while (lam_rpc_call_time_left_ns(echo.held) > 0) {
        assert_true(lam_now_ns() < give_up_ns);
        lam_sleep_ns(LAM_NS_PER_MS);
    }
    lam_buf_done(&answer);
    echo_stop(&echo);
}

static void time_left_follows_the_deadline(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *with = NULL;
    struct lam_rpc_stream *without = NULL;
    struct lam_err err = {0};
    uint64_t left_ns;

    (void)state;
    echo_start(&echo, "left");
    assert_int_equal(
        lam_rpc_stream_open(echo.channel, ECHO_HOLD, 60 * LAM_NS_PER_S, &with, &err), LAM_OK);
    assert_true(echo_reaches(&echo.opened, 1));
    left_ns = lam_rpc_call_time_left_ns(echo.held);
    assert_in_range(left_ns, LAM_NS_PER_S, 61 * LAM_NS_PER_S);
    assert_int_equal(
        lam_rpc_stream_open(echo.channel, ECHO_HOLD, LAM_RPC_NO_TIMEOUT, &without, &err), LAM_OK);
    assert_true(echo_reaches(&echo.opened, 2));
    assert_true(lam_rpc_call_time_left_ns(echo.held) == UINT64_MAX);
    lam_rpc_stream_destroy(with);
    lam_rpc_stream_destroy(without);
    echo_stop(&echo);
}

static void calls_beyond_the_limit_are_refused(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *streams[3] = {NULL};
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    uint64_t give_up_ns = lam_now_ns() + SOON;

    (void)state;
    echo_start_with(&echo, "limit", 3);
    for (int i = 0; i < 3; i++)
        echo_open(&echo, ECHO_HOLD, &streams[i]);
    assert_true(echo_reaches(&echo.opened, 3));
    assert_int_equal(ask(&echo, ECHO_UNARY, "x", &answer, &err), LAM_RESOURCE_EXHAUSTED);
    /* Health answers also then. */
    assert_int_equal(ask(&echo, "/grpc.health.v1.Health/Check", "", &answer, &err), LAM_OK);
    lam_rpc_stream_destroy(streams[0]);
    while (ask(&echo, ECHO_UNARY, "x", &answer, &err) != LAM_OK)
        assert_true(lam_now_ns() < give_up_ns);
    assert_string_equal(answer.data, "x");
    lam_rpc_stream_destroy(streams[1]);
    lam_rpc_stream_destroy(streams[2]);
    lam_buf_done(&answer);
    echo_stop(&echo);
}

static void client_streaming_counts_all(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    char block[60000];
    bool end = false;

    (void)state;
    memset(block, 'x', sizeof block);
    echo_start(&echo, "sink");
    echo_open(&echo, ECHO_SINK, &stream);
    for (int i = 0; i < 200; i++)
        assert_int_equal(lam_rpc_stream_send(stream, block, sizeof block, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_half_close(stream, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_string_equal(message.data, "12000000");
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

/* A reader that stops: messages stay in our queue, where the service can see and bound them. */
static void queue_shows_a_reader_that_does_not_read(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(ECHO_MESSAGE_BYTES_MAX);
    struct lam_err err = {0};
    char *block = lam_calloc(1, 1 << 20);
    uint64_t give_up_ns = lam_now_ns() + SOON;
    bool end = false;

    (void)state;
    echo_start(&echo, "slow");
    echo_open(&echo, ECHO_HOLD, &stream);
    assert_true(echo_reaches(&echo.opened, 1));
    for (int i = 0; i < 64; i++)
        assert_true(lam_rpc_call_send(echo.held, block, 1 << 20));
    lam_sleep_ns(200 * LAM_NS_PER_MS);
    assert_true(lam_rpc_call_queued(echo.held) > 32);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
        assert_int_equal(message.size, 1 << 20);
    }
    while (lam_rpc_call_queued(echo.held) > 0) {
        assert_true(lam_now_ns() < give_up_ns);
        lam_sleep_ns(LAM_NS_PER_MS);
    }
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    lam_free(block);
    echo_stop(&echo);
}

static void shutdown_ends_open_calls(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    struct stat file;
    bool end = false;
    uint64_t begin_ns;

    (void)state;
    echo_start(&echo, "shutdown");
    echo_open(&echo, ECHO_HOLD, &stream);
    assert_true(echo_reaches(&echo.opened, 1));
    begin_ns = lam_now_ns();
    lam_rpc_server_shutdown(echo.server, 100 * LAM_NS_PER_MS);
    assert_in_range(lam_now_ns() - begin_ns, 90 * LAM_NS_PER_MS, SOON);
    assert_int_equal(echo.done, 1);
    assert_int_equal(echo.cancelled, 1);
    assert_int_not_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_int_not_equal(stat(echo.address + 5, &file), 0);
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

static void *finish_later(void *call)
{
    lam_sleep_ns(50 * LAM_NS_PER_MS);
    lam_rpc_call_reply(call, "in time", 7);
    return NULL;
}

static void shutdown_waits_for_calls_within_grace(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    pthread_t thread;
    bool end = false;
    uint64_t begin_ns = lam_now_ns();

    (void)state;
    echo_start(&echo, "grace");
    echo_open(&echo, ECHO_HOLD, &stream);
    assert_true(echo_reaches(&echo.opened, 1));
    assert_int_equal(pthread_create(&thread, NULL, finish_later, echo.held), 0);
    lam_rpc_server_shutdown(echo.server, 2 * SOON);
    assert_true(lam_now_ns() - begin_ns < SOON);
    assert_int_equal(echo.cancelled, 0);
    pthread_join(thread, NULL);
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_string_equal(message.data, "in time");
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

/* About ten in a second: later on a busy machine, never more often. */
static void ticks_come_without_traffic(void **state)
{
    uint64_t begin_ns = lam_now_ns();
    struct echo echo;

    (void)state;
    echo_start(&echo, "tick");
    assert_true(echo_reaches(&echo.ticks, 5));
    assert_true(lam_now_ns() - begin_ns >= 400 * LAM_NS_PER_MS);
    echo_stop(&echo);
}

/* When they were wished for: not at ticks, not early, and not again. */
static void wakes_come_when_wished(void **state)
{
    struct echo echo;
    int ticks;

    (void)state;
    echo_start(&echo, "wake");
    assert_true(echo_reaches(&echo.wakes, ECHO_WAKES));
    ticks = atomic_load(&echo.ticks);
    assert_true(ticks < ECHO_WAKES / 2);
    assert_true(echo_reaches(&echo.ticks, ticks + 2));
    assert_int_equal(atomic_load(&echo.wakes), ECHO_WAKES);
    assert_int_equal(atomic_load(&echo.too_early), 0);
    echo_stop(&echo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_call_echoes),
        cmocka_unit_test(unary_latency_is_reported),
        cmocka_unit_test(server_stream_keeps_order_over_10000_messages),
        cmocka_unit_test(bidi_alternates_and_ends_at_half_close),
        cmocka_unit_test(messages_up_to_the_limit_arrive_whole),
        cmocka_unit_test(unknown_method_is_answered_at_once),
        cmocka_unit_test(status_and_text_reach_the_client),
        cmocka_unit_test(cancel_reaches_the_service),
        cmocka_unit_test(cancel_wakes_a_blocked_reader),
        cmocka_unit_test(deadline_ends_both_sides),
        cmocka_unit_test(time_left_follows_the_deadline),
        cmocka_unit_test(calls_beyond_the_limit_are_refused),
        cmocka_unit_test(client_streaming_counts_all),
        cmocka_unit_test(queue_shows_a_reader_that_does_not_read),
        cmocka_unit_test(shutdown_ends_open_calls),
        cmocka_unit_test(shutdown_waits_for_calls_within_grace),
        cmocka_unit_test(ticks_come_without_traffic),
        cmocka_unit_test(wakes_come_when_wished),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
