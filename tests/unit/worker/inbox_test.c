/* Messages come in their order, while nobody takes any, and all of them before the stream's end. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/message.h"
#include "tests/unit/worker/fake_gateway.h"
#include "worker/inbox.h"

#define MESSAGE_BYTES_MAX ((size_t)1 << 16)
#define STEPS 40u
#define TIMEOUT_NS (120 * LAM_NS_PER_S) /* or it hangs */

struct fixture {
    struct fake_gateway gateway;
    struct lam_rpc_channel *channel;
    struct lam_rpc_stream *stream;
    struct lam_inbox *inbox;
    uint32_t n_attached;
};

static void send_message(struct fixture *f, const Laminar__V1__WorkerMessage *message)
{
    struct lam_buf out = LAM_BUF(MESSAGE_BYTES_MAX);

    assert_true(lam_message_pack(&message->base, &out));
    assert_int_equal(lam_rpc_stream_send(f->stream, out.data, out.size, NULL), LAM_OK);
    lam_buf_done(&out);
}

/* Attaches to the fake gateway as a worker does, whose model has a header of one byte. */
static void connect_to(struct fixture *f)
{
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__Hello hello = LAMINAR__V1__HELLO__INIT;
    Laminar__V1__HeaderChunk chunk = LAMINAR__V1__HEADER_CHUNK__INIT;
    const Laminar__V1__GatewayMessage *welcome;
    uint8_t header = 0;

    assert_int_equal(
        lam_rpc_channel_create(f->gateway.address, MESSAGE_BYTES_MAX, &f->channel, NULL), LAM_OK);
    assert_int_equal(lam_rpc_stream_open(f->channel, "/laminar.v1.Workers/Attach",
                         LAM_RPC_NO_TIMEOUT, &f->stream, NULL),
        LAM_OK);
    lam_inbox_open(f->inbox, f->stream);
    hello.header_bytes = 1;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_HELLO;
    message.hello = &hello;
    send_message(f, &message);
    assert_int_equal(lam_inbox_take(f->inbox, &welcome, NULL), LAM_OK);
    assert_int_equal(welcome->kind_case, LAMINAR__V1__GATEWAY_MESSAGE__KIND_WELCOME);
    chunk.data = (ProtobufCBinaryData){.len = 1, .data = &header};
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_HEADER_CHUNK;
    message.header_chunk = &chunk;
    send_message(f, &message);
    assert_true(fake_gateway_wait_attached(&f->gateway, ++f->n_attached, NULL));
}

static void disconnect(struct fixture *f)
{
    lam_rpc_stream_cancel(f->stream);
    lam_inbox_close(f->inbox);
    lam_rpc_stream_destroy(f->stream);
    lam_rpc_channel_destroy(f->channel);
}

static int setup(void **state)
{
    static struct fixture f;

    lam_log_init("inbox_test", LAM_LOG_OFF);
    f = (struct fixture){0};
    fake_gateway_start(&f.gateway);
    assert_int_equal(lam_inbox_create(MESSAGE_BYTES_MAX, &f.inbox, NULL), LAM_OK);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    lam_inbox_destroy(f->inbox);
    fake_gateway_stop(&f->gateway);
    return 0;
}

static void wait_ready(struct fixture *f)
{
    uint64_t limit_ns = lam_now_ns() + TIMEOUT_NS;

    while (!lam_inbox_ready(f->inbox)) {
        assert_true(lam_now_ns() < limit_ns);
        lam_sleep_ns(LAM_NS_PER_MS / 10);
    }
}

static void test_order(void **state)
{
    struct fixture *f = *state;
    const Laminar__V1__GatewayMessage *message;
    const Laminar__V1__GatewayMessage *before = NULL;
    struct lam_err err = {0};

    connect_to(f);
    for (uint32_t i = 0; i < STEPS; i++)
        fake_gateway_step(&f->gateway, i, NULL, 0, &i, 1);
    for (uint32_t i = 0; i < STEPS; i++) {
        wait_ready(f); /* without taking */
        assert_int_equal(lam_inbox_take(f->inbox, &message, &err), LAM_OK);
        assert_int_equal(message->step->id, i);
        assert_int_equal(message->step->free[0], i);
        assert_true(message != before); /* the one before has lived until now */
        before = message;
    }
    assert_false(lam_inbox_ready(f->inbox));
    disconnect(f);
}

static void test_the_end_comes_last(void **state)
{
    struct fixture *f = *state;
    const Laminar__V1__GatewayMessage *message;
    struct lam_err err = {0};

    for (unsigned round = 0; round < 2; round++) { /* it may be opened again */
        connect_to(f);
        fake_gateway_step(&f->gateway, 7, NULL, 0, NULL, 0);
        fake_gateway_step(&f->gateway, 8, NULL, 0, NULL, 0);
        fake_gateway_drop(&f->gateway);
        assert_int_equal(lam_inbox_take(f->inbox, &message, &err), LAM_OK);
        assert_int_equal(message->step->id, 7);
        assert_int_equal(lam_inbox_take(f->inbox, &message, &err), LAM_OK);
        assert_int_equal(message->step->id, 8);
        for (unsigned i = 0; i < 2; i++)
            assert_int_equal(lam_inbox_take(f->inbox, &message, &err), LAM_UNAVAILABLE);
        assert_true(lam_inbox_ready(f->inbox));
        disconnect(f);
    }
}

/* Also with messages that nobody has taken, more than there is room for. */
static void test_closed_unread(void **state)
{
    struct fixture *f = *state;

    connect_to(f);
    for (uint32_t i = 0; i < STEPS; i++)
        fake_gateway_step(&f->gateway, i, NULL, 0, NULL, 0);
    wait_ready(f);
    disconnect(f);
}

static void test_no_memory(void **state)
{
    (void)state;
    for (uint64_t nth = 1;; nth++) {
        struct lam_inbox *inbox = NULL;
        struct lam_err err = {0};
        bool made;

        lam_fault_arm("alloc", nth);
        made = lam_inbox_create(MESSAGE_BYTES_MAX, &inbox, &err) == LAM_OK;
        assert_int_equal(made, !lam_fault_fired());
        lam_fault_arm("alloc", 0);
        lam_inbox_destroy(inbox);
        if (made)
            break;
        assert_int_equal(err.status, LAM_RESOURCE_EXHAUSTED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_end_comes_last, setup, teardown),
        cmocka_unit_test_setup_teardown(test_closed_unread, setup, teardown),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
