/* Answers leave in their order, all of them before close returns, and nobody waits for a stream
 * that has ended. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/fault.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "tests/unit/worker/fake_gateway.h"
#include "worker/outbox.h"

#define MESSAGE_BYTES_MAX ((size_t)1 << 16)
#define ROUNDS 40u

static struct lam_rpc_channel *channel;
static struct lam_rpc_stream *stream;

static void open_stream(struct fake_gateway *gateway)
{
    assert_int_equal(
        lam_rpc_channel_create(gateway->address, MESSAGE_BYTES_MAX, &channel, NULL), LAM_OK);
    assert_int_equal(lam_rpc_stream_open(
                         channel, "/laminar.v1.Workers/Attach", LAM_RPC_NO_TIMEOUT, &stream, NULL),
        LAM_OK);
}

static void close_stream(void)
{
    lam_rpc_stream_destroy(stream);
    lam_rpc_channel_destroy(channel);
}

static void put(struct lam_outbox *outbox, uint64_t id)
{
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__StepResult result = LAMINAR__V1__STEP_RESULT__INIT;

    result.id = id;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_STEP_RESULT;
    message.step_result = &result;
    assert_int_equal(lam_outbox_put(outbox, &message.base, NULL), LAM_OK);
}

static void test_order(void **state)
{
    static struct fake_gateway gateway;
    struct lam_outbox *outbox = NULL;
    struct fake_result result;

    (void)state;
    fake_gateway_start(&gateway);
    open_stream(&gateway);
    assert_int_equal(lam_outbox_create(MESSAGE_BYTES_MAX, &outbox, NULL), LAM_OK);
    lam_outbox_open(outbox, stream);
    for (uint64_t id = 0; id < ROUNDS; id += 2) {
        put(outbox, id);
        put(outbox, id + 1);
        lam_outbox_go(outbox);
        for (uint64_t i = 0; i < 2; i++) {
            assert_true(fake_gateway_wait_result(&gateway, &result));
            assert_int_equal(result.id, id + i);
        }
    }
    /* What was put is sent, though the stream is closed right behind it. */
    put(outbox, ROUNDS);
    put(outbox, ROUNDS + 1);
    lam_outbox_close(outbox);
    assert_int_equal(lam_rpc_stream_half_close(stream, NULL), LAM_OK);
    for (uint64_t i = 0; i < 2; i++) {
        assert_true(fake_gateway_wait_result(&gateway, &result));
        assert_int_equal(result.id, ROUNDS + i);
    }
    lam_outbox_destroy(outbox);
    close_stream();
    fake_gateway_stop(&gateway);
}

static void test_a_stream_that_has_ended(void **state)
{
    static struct fake_gateway gateway;
    struct lam_outbox *outbox = NULL;
    struct fake_result result;

    (void)state;
    fake_gateway_start(&gateway);
    assert_int_equal(lam_outbox_create(MESSAGE_BYTES_MAX, &outbox, NULL), LAM_OK);
    open_stream(&gateway);
    lam_outbox_open(outbox, stream);
    lam_rpc_stream_cancel(stream);
    for (uint64_t id = 0; id < ROUNDS; id++)
        put(outbox, id);
    lam_outbox_close(outbox);
    close_stream();
    /* The next attachment begins with nothing of it. */
    open_stream(&gateway);
    lam_outbox_open(outbox, stream);
    put(outbox, ROUNDS);
    lam_outbox_go(outbox);
    assert_true(fake_gateway_wait_result(&gateway, &result));
    assert_int_equal(result.id, ROUNDS);
    lam_outbox_close(outbox);
    close_stream();
    lam_outbox_destroy(outbox);
    fake_gateway_stop(&gateway);
}

static void test_no_memory(void **state)
{
    struct lam_err err = {0};
    struct lam_outbox *outbox = NULL;

    (void)state;
    lam_fault_arm("alloc", 1);
    assert_int_equal(lam_outbox_create(MESSAGE_BYTES_MAX, &outbox, &err), LAM_RESOURCE_EXHAUSTED);
    lam_fault_arm("alloc", 0);
    assert_null(outbox);
    lam_outbox_destroy(outbox);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_a_stream_that_has_ended),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
