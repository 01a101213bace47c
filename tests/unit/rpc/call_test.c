/* Calls that threads other than the I/O thread hold: sends, nudges, the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "tests/unit/rpc/echo.h"

struct pusher {
    struct lam_rpc_call *call;
    pthread_t thread;
    int sent;
};

static void *push(void *arg)
{
    struct pusher *pusher = arg;

    while (pusher->sent < 3000 && lam_rpc_call_send(pusher->call, "0123456789", 10)) {
        lam_rpc_call_nudge(pusher->call);
        pusher->sent++;
    }
    lam_rpc_call_unref(pusher->call);
    return NULL;
}

/* A thread that sends holds the call while it does. */
static void start_push(struct pusher *pusher, struct lam_rpc_call *call)
{
    *pusher = (struct pusher){.call = call};
    lam_rpc_call_ref(call);
    assert_int_equal(pthread_create(&pusher->thread, NULL, push, pusher), 0);
}

static void sends_from_other_threads_all_arrive(void **state)
{
    enum { THREADS = 4 };
    struct echo echo;
    struct pusher pushers[THREADS];
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    bool end = false;
    int received = 0;

    (void)state;
    echo_start(&echo, "threads");
    echo_open(&echo, ECHO_HOLD, &stream);
    assert_true(echo_reaches(&echo.opened, 1));
    for (int i = 0; i < THREADS; i++)
        start_push(&pushers[i], echo.held);
    while (received < THREADS * 3000) {
        assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
        assert_int_equal(message.size, 10);
        received++;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(pushers[i].thread, NULL);
    assert_true(echo_reaches(&echo.nudges, 1));
    lam_rpc_call_finish(echo.held, LAM_OK, NULL);
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_true(end);
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

static void a_nudge_reaches_the_service_until_the_call_is_finished(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *stream = NULL;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    bool end = false;

    (void)state;
    echo_start(&echo, "nudge");
    echo_open(&echo, ECHO_HOLD, &stream);
    assert_true(echo_reaches(&echo.opened, 1));
    lam_rpc_call_nudge(echo.held);
    assert_true(echo_reaches(&echo.nudges, 1));
    lam_rpc_call_nudge(echo.held); /* not the last one */
    assert_true(echo_reaches(&echo.nudges, 2));
    lam_rpc_call_finish(echo.held, LAM_OK, NULL);
    lam_rpc_call_nudge(echo.held);
    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_true(end && echo_reaches(&echo.done, 1));
    lam_rpc_call_nudge(echo.held);
    assert_int_equal(echo.nudges, 2);
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&message);
    echo_stop(&echo);
}

/* The client leaves while threads send and nudge: each learns it, nothing is used after its end. */
static void sends_race_with_a_cancel(void **state)
{
    enum { THREADS = 4 };
    struct echo echo;

    (void)state;
    echo_start(&echo, "race");
    for (int round = 0; round < 20; round++) {
        struct pusher pushers[THREADS];
        struct lam_rpc_stream *stream = NULL;
        echo_open(&echo, ECHO_HOLD, &stream);
        assert_true(echo_reaches(&echo.opened, round + 1));
        for (int i = 0; i < THREADS; i++)
            start_push(&pushers[i], echo.held);
        lam_rpc_stream_destroy(stream);
        for (int i = 0; i < THREADS; i++)
            pthread_join(pushers[i].thread, NULL);
        assert_true(echo_reaches(&echo.done, round + 1));
    }
    echo_stop(&echo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_from_other_threads_all_arrive),
        cmocka_unit_test(a_nudge_reaches_the_service_until_the_call_is_finished),
        cmocka_unit_test(sends_race_with_a_cancel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
